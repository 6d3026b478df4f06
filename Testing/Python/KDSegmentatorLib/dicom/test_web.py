from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests

from KDSegmentatorLib.dicom.web import read_web_series
from KDSegmentatorLib.errors import ImageReadError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from support.dicom_series import write_series
from support.orthanc_servers import PASSWORD, USER, OrthancServer, free_port, pacs_configuration, require_orthanc


def test_a_series_comes_from_an_archive_as_from_its_files(tmp_path: Path, volume: Volume) -> None:
    require_orthanc()
    (tmp_path / "series").mkdir()
    header = pydicom.dcmread(write_series(volume, tmp_path / "series")[0])
    with OrthancServer(pacs_configuration(tmp_path / "pacs")) as archive:
        archive.store(tmp_path / "series")
        service = f"{archive.rest.url}/dicom-web"
        session = requests.Session()
        session.auth = (USER, PASSWORD)
        address = f"{service}/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}"

        series = read_web_series(address, session=session)

        assert np.array_equal(series.volume.voxels, volume.voxels)
        assert series.volume.same_grid(volume)
        assert series.uid == header.SeriesInstanceUID
        with pytest.raises(ImageReadError, match=r"cannot fetch the series .* it answers 401 .*credentials"):
            read_web_series(address)
        with pytest.raises(ImageReadError, match=r"the series 1\.2\.3 of "):
            read_web_series(f"{service}/studies/{header.StudyInstanceUID}/series/1.2.3", session=session)


class Answer(BaseHTTPRequestHandler):
    """Answers with what is no DICOM."""

    def do_GET(self) -> None:
        content = b"--b\r\nContent-Type: application/dicom\r\n\r\nno DICOM at all\r\n--b--"
        self.send_response(200)
        self.send_header("Content-Type", "multipart/related; type=application/dicom; boundary=b")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def nonsense() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_archive_that_sends_nonsense_or_nothing_is_named(nonsense: str) -> None:
    with pytest.raises(ImageReadError, match=r"what it sends is no DICOM"):
        read_web_series(f"{nonsense}/studies/1.2/series/1.2.3")
    with pytest.raises(ImageReadError, match=r"cannot fetch the series 1\.2\.3 of http://127\.0\.0\.1"):
        read_web_series(f"http://127.0.0.1:{free_port()}/studies/1.2/series/1.2.3")


@pytest.mark.parametrize(
    "address", ["", "study", "ftp://host/studies/1/series/2", "https://host/dicom-web/studies/1.2"]
)
def test_what_is_no_address_of_a_series_is_refused(address: str) -> None:
    with pytest.raises(InvalidSettingsError, match="is not the address of a series; give https://HOST"):
        read_web_series(address)

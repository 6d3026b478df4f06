"""Results go to targets that prove who they are, and to no others; what a target says against it is passed on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="needs pynetdicom: pip install 'kdsegmentator[node]'")
from KDSegmentatorLib.errors import DeliveryError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.node import safety
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.settings import DicomTarget, Tls, WebTarget, read_settings
from KDSegmentatorLib.node.targets import sender
from support.certificates import authority, certificate, tls_proxy
from support.dicom_series import write_series
from support.orthanc_servers import PASSWORD, USER, OrthancServer, free_port, pacs_configuration, require_orthanc


class Pacs:
    """A PACS with TLS, which asks for certificates; and those of friends and of a rogue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca, self.rogue_ca = authority(folder, "ca"), authority(folder, "rogue-ca")
        self.server = certificate(self.ca, "server")
        self.node, self.rogue = certificate(self.ca, "node"), certificate(self.rogue_ca, "rogue")
        tls = {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(self.server[0]),
            "DicomTlsPrivateKey": str(self.server[1]),
            "DicomTlsTrustedCertificates": str(self.ca),
            "DicomTlsRemoteCertificateRequired": True,
        }
        self.orthanc = OrthancServer(pacs_configuration(folder / "pacs", tls))

    def tls(self, ca: Path, own: tuple[Path, Path] | None) -> Tls:
        certificate, key = ("", "") if own is None else map(str, own)
        return Tls(ca=str(ca), certificate=certificate, key=key)

    def dicom(self, tls: Tls | None, **more: object) -> DicomTarget:
        fields = {"host": "127.0.0.1", "port": self.orthanc.dicom_port, "aet": "PACS", **more}
        return DicomTarget(name="pacs", tls=tls, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    require_orthanc()
    pacs = Pacs(tmp_path_factory.mktemp("pacs"))
    with pacs.orthanc:
        yield pacs


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a job's folder with two objects."""
    folder = tmp_path / "results"
    folder.mkdir()
    voxels = np.arange(2 * 8 * 9, dtype=np.int16).reshape(2, 8, 9)
    write_series(Volume(voxels, (1, 1, 1), (0, 0, 0), ((1, 0, 0), (0, 1, 0), (0, 0, 1))), folder, modality="MR")
    return folder


def send(pacs: Pacs, target: DicomTarget | WebTarget, folder: Path) -> list[str]:
    return sender(target, Places(pacs.folder), "KDSEG", 5.0).send(folder, "a/b")


def test_a_pacs_with_tls_takes_results_from_a_node_that_both_sides_know(pacs: Pacs, results: Path) -> None:
    stored = send(pacs, pacs.dicom(pacs.tls(pacs.ca, pacs.node)), results)
    assert set(stored) <= {held["MainDicomTags"]["SOPInstanceUID"] for held in pacs.orthanc.instances()}
    assert len(stored) == 2


@pytest.mark.parametrize("who", ["rogue PACS", "rogue node", "no certificate", "no TLS"])
def test_no_result_goes_to_a_rogue_pacs_nor_from_a_rogue_node(pacs: Pacs, results: Path, who: str) -> None:
    tls = {
        "rogue PACS": pacs.tls(pacs.rogue_ca, pacs.node),
        "rogue node": pacs.tls(pacs.ca, pacs.rogue),
        "no certificate": pacs.tls(pacs.ca, None),
        "no TLS": None,
    }[who]
    before = len(pacs.orthanc.instances())
    with pytest.raises(DeliveryError, match=r"127\.0\.0\.1:[0-9]+ (does not answer|refused)"):
        send(pacs, pacs.dicom(tls), results)
    assert len(pacs.orthanc.instances()) == before


def test_a_wrong_ae_title_is_said(pacs: Pacs, results: Path) -> None:
    with pytest.raises(DeliveryError, match="refused the association; look whether it knows the AE title KDSEG"):
        send(pacs, pacs.dicom(pacs.tls(pacs.ca, pacs.node), aet="OTHER"), results)


@pytest.fixture
def password(pacs: Pacs) -> str:
    path = pacs.folder / "password"
    path.write_text(PASSWORD)
    path.chmod(0o600)
    return str(path)


def test_an_archive_behind_tls_takes_results_and_a_rogue_one_does_not_get_them(
    pacs: Pacs, results: Path, password: str
) -> None:
    http = int(pacs.orthanc.rest.url.rpartition(":")[2])
    with tls_proxy(http, pacs.server, pacs.ca) as port:

        def target(tls: Tls) -> WebTarget:
            url = f"https://127.0.0.1:{port}/dicom-web"
            return WebTarget(name="archive", url=url, user=USER, password=password, tls=tls)

        stored = send(pacs, target(pacs.tls(pacs.ca, pacs.node)), results)
        assert set(stored) <= {held["MainDicomTags"]["SOPInstanceUID"] for held in pacs.orthanc.instances()}
        with pytest.raises(DeliveryError, match="certificate is not signed"):
            send(pacs, target(pacs.tls(pacs.rogue_ca, pacs.node)), results)
        for own in (pacs.rogue, None):
            with pytest.raises(DeliveryError):
                send(pacs, target(pacs.tls(pacs.ca, own)), results)


def test_what_an_archive_says_against_a_result_is_passed_on(pacs: Pacs, results: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    target = WebTarget(name="archive", url=f"{pacs.orthanc.rest.url}/dicom-web", user=USER, password=str(wrong))
    with pytest.raises(DeliveryError, match="HTTP status 401"):
        send(pacs, target, results)
    with pytest.raises(DeliveryError, match="does not answer"):
        send(pacs, WebTarget(name="archive", url=f"http://127.0.0.1:{free_port()}/dicom-web"), results)


def test_a_password_that_others_can_read_and_a_certificate_that_is_missing_are_refused(
    pacs: Pacs, tmp_path: Path
) -> None:
    open_ = tmp_path / "open"
    open_.write_text("secret")
    open_.chmod(0o644)
    with pytest.raises(InvalidSettingsError, match="chmod 600"):
        sender(WebTarget(name="a", url="https://a", user="u", password=str(open_)), Places(tmp_path), "KDSEG", 5.0)
    with pytest.raises(InvalidSettingsError, match="cannot be read"):
        sender(pacs.dicom(Tls(ca="missing.pem")), Places(tmp_path), "KDSEG", 5.0)


def test_a_result_that_is_gone_is_said(pacs: Pacs, tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="run the job again"):
        send(pacs, pacs.dicom(pacs.tls(pacs.ca, pacs.node)), tmp_path)


def test_orthanc_takes_scans_from_senders_that_prove_who_they_are(
    pacs: Pacs, results: Path, make: Callable[..., Places]
) -> None:
    if shutil.which("storescu") is None:
        pytest.skip("needs storescu: apt-get install dcmtk")
    certificate, key = pacs.server
    settings = f"""
[orthanc]
url = "http://127.0.0.1:{free_port()}"
port = {free_port()}
tls = {{ ca = "{pacs.ca}", certificate = "{certificate}", key = "{key}" }}
[[orthanc.sender]]
aet = "MR1"
host = "127.0.0.1"
"""
    places = make(settings)
    assert safety.problems(places, read_settings(places.root)) == []
    with OrthancServer(places.orthanc) as orthanc:

        def sent(*tls: object) -> bool:
            command = ["storescu", *map(str, tls), "-aet", "MR1", "-aec", "KDSEG", "127.0.0.1", str(orthanc.dicom_port)]
            files = map(str, results.iterdir())
            return subprocess.run([*command, *files], capture_output=True, timeout=60, check=False).returncode == 0

        assert not sent()
        assert not sent("--anonymous-tls", "--add-cert-file", pacs.ca)
        assert not sent("--enable-tls", pacs.rogue[1], pacs.rogue[0], "--add-cert-file", pacs.ca)
        assert orthanc.instances() == []
        assert sent("--enable-tls", pacs.node[1], pacs.node[0], "--add-cert-file", pacs.ca)
        assert len(orthanc.instances()) == 2

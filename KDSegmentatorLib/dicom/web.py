"""A series from a DICOMweb archive (WADO-RS), fetched into a temporary folder and read like any other.

Nothing else of the reader touches the network: this is done for an address that the caller names.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from KDSegmentatorLib.dicom.archive import MAXIMUM_BYTES
from KDSegmentatorLib.dicom.series import DicomSeries, read_series
from KDSegmentatorLib.dicom.sources import MAXIMUM_FILES
from KDSegmentatorLib.errors import ImageReadError, InvalidSettingsError, KDSegmentatorError, MissingPackageError

if TYPE_CHECKING:
    from requests import Session

TIMEOUT_SECONDS = 60.0
"""For which the archive may say nothing."""

_ADDRESS = re.compile(r"(?P<service>https?://[^?#\s]+)/studies/(?P<study>[0-9.]+)/series/(?P<series>[0-9.]+)/?")


def read_web_series(
    address: str, *, session: Session | None = None, check: Callable[[], None] = lambda: None
) -> DicomSeries:
    """Read a series from a DICOMweb archive.

    Args:
        address: of the series, ``https://HOST/dicom-web/studies/STUDY-UID/series/SERIES-UID``.
        session: carries credentials and certificates (``auth``, ``cert``, ``verify``); None for none and the system's
            certificates.
        check: called for every image; may raise to stop.

    Raises:
        InvalidSettingsError: the address is not that of a series.
        MissingPackageError: dicomweb-client is not installed.
        ImageReadError: the archive does not answer, refuses, or does not have the series; or see :func:`read_series`.
        GeometryError: see :func:`read_series`.

    Examples:
        >>> session = requests.Session()
        >>> session.auth = ("user", "secret")
        >>> read_web_series("https://pacs.example/dicom-web/studies/1.2.3/series/1.2.3.4", session=session)
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InvalidSettingsError(
            f"{address!r} is not the address of a series; give https://HOST/dicom-web/studies/STUDY-UID/series/SERIES-UID"
        )
    with tempfile.TemporaryDirectory(prefix="kdseg-dicom-") as folder:
        _fetch(match["service"], match["study"], match["series"], Path(folder), session, check)
        return read_series(folder, series=match["series"], check=check)


def _fetch(
    service: str, study: str, series: str, folder: Path, session: Session | None, check: Callable[[], None]
) -> None:
    try:
        from dicomweb_client.api import DICOMwebClient
        from requests import RequestException
    except ImportError as error:
        raise MissingPackageError(
            "DICOMweb needs the package dicomweb-client, which is not installed: pip install 'kdsegmentator[dicom]'"
        ) from error
    where = f"the series {series} of {service}"
    try:
        client = DICOMwebClient(service, session=session, timeout=TIMEOUT_SECONDS)
        client.set_http_retry_params(retry=False)
        left = MAXIMUM_BYTES
        for number, image in enumerate(client.iter_series(study, series)):
            check()
            if number >= MAXIMUM_FILES:
                raise ImageReadError(f"cannot read {where}: it has more than {MAXIMUM_FILES:,} images")
            path = folder / f"{number}.dcm"
            image.save_as(path, enforce_file_format=True)
            left -= path.stat().st_size
            if left < 0:
                raise ImageReadError(f"cannot read {where}: it has more than {MAXIMUM_BYTES:,} bytes")
    except RequestException as error:
        answer = getattr(error, "response", None)
        said = f"it answers {answer.status_code} {answer.reason}" if answer is not None else f"{error}"
        raise ImageReadError(
            f"cannot fetch {where}: {said}; check the address, the credentials and the certificates"
        ) from error
    except OSError as error:
        raise ImageReadError(f"cannot keep {where}: {error.strerror or error}; check the disk") from error
    except (KDSegmentatorError, MemoryError):
        raise
    except Exception as error:  # pydicom raises nearly everything on what is no DICOM
        raise ImageReadError(f"cannot fetch {where}: what it sends is no DICOM ({error})") from error

"""Where the scan of a job is, and how it is read: an image file, a DICOM series in a folder, a series in Orthanc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from KDSegmentatorLib.errors import ImageReadError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.files import file_sha256
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.node.rules import Facts

if TYPE_CHECKING:
    from KDSegmentatorLib.dicom.series import DicomSeries


class _Source(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What all sources have.

    Attributes:
        facts: what rules ask of it.
        result: how its results are called in folders of results, with ``/``.
        sha256: of what it consisted of when it was admitted.
    """

    facts: Facts
    result: str
    sha256: str


class ImageFile(_Source, frozen=True, kw_only=True, tag="image"):
    """An image file in the watched folder; ``path`` is relative to it, with ``/``."""

    path: str


class FolderSeries(_Source, frozen=True, kw_only=True, tag="folder"):
    """A DICOM series in the watched folder.

    Attributes:
        path: the sub-folder or archive that it lies in, relative to the watched folder; empty for loose files.
        uid: Series Instance UID.
    """

    path: str
    uid: str


class OrthancSeries(_Source, frozen=True, kw_only=True, tag="orthanc"):
    """A DICOM series in Orthanc.

    Attributes:
        id: Orthanc's own.
        study_uid: Study Instance UID.
        uid: Series Instance UID.
        images: how many.
    """

    id: str
    study_uid: str
    uid: str
    images: int


ScanSource: TypeAlias = ImageFile | FolderSeries | OrthancSeries


def encode(source: ScanSource) -> str:
    """Return a source as JSON, for the queue."""
    return msgspec.json.encode(source).decode("utf-8")


def decode(text: str) -> ScanSource:
    """Return the source that :func:`encode` wrote."""
    return msgspec.json.decode(text, type=ScanSource)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """A scan that was read.

    Attributes:
        volume: voxels on their grid.
        series: of a DICOM series; None of an image file.
        file: of an image file; None of a series.
    """

    volume: Volume
    series: DicomSeries | None = None
    file: Path | None = None


Fetch: TypeAlias = Callable[[OrthancSeries], Path]
"""Brings a series from Orthanc, and returns the folder that it lies in."""


def read_scan(source: ScanSource, watched: Path | None, fetch: Fetch, check: Callable[[], None]) -> Scan:
    """Read the scan of a job.

    Args:
        source: where it is.
        watched: the watched folder, None without one.
        fetch: for series in Orthanc.
        check: called again and again; may raise to stop.

    Raises:
        ImageReadError: it is not there any more, was changed, or cannot be read.
        GeometryError: its images do not lie on one regular grid.
    """
    if isinstance(source, OrthancSeries):
        return _read_series(fetch(source), source.uid, check)
    if watched is None:
        raise ImageReadError("the scan came from a watched folder, but the settings name none any more")
    path = watched / source.path
    if isinstance(source, ImageFile):
        _check_unchanged(source, path)
        return Scan(volume=read_volume(path), file=path)
    if path.is_file():
        _check_unchanged(source, path)
    scan = _read_series(path, source.uid, check)
    if path.is_dir() and scan.series is not None and scan.series.sha256 != source.sha256:
        raise ImageReadError(_CHANGED)
    return scan


_CHANGED = "the scan was changed after it was taken; it is taken again as it is now, as a new job"


def _check_unchanged(source: ImageFile | FolderSeries, path: Path) -> None:
    try:
        if file_sha256(path) != source.sha256:
            raise ImageReadError(_CHANGED)
    except OSError as error:
        raise ImageReadError(
            f"the scan cannot be read any more ({error.strerror}); put it into the watched folder again"
        ) from error


def _read_series(folder: Path, uid: str, check: Callable[[], None]) -> Scan:
    from KDSegmentatorLib.dicom.series import read_series

    series = read_series(folder, series=uid, check=check)
    return Scan(volume=series.volume, series=series)

"""What is to be segmented: an image file, or a DICOM series in a folder, an archive or files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from KDSegmentatorLib.errors import ImplausibleVolumeError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback
from KDSegmentatorLib.inference.segmentation import ResultWarning, Segmentation, input_warning
from KDSegmentatorLib.io import images
from KDSegmentatorLib.io.dicom_file import is_dicom_file
from KDSegmentatorLib.io.files import file_sha256
from KDSegmentatorLib.io.images import image_suffix
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.segmenter import Segmenter

if TYPE_CHECKING:
    from KDSegmentatorLib.dicom.series import DicomSeries
    from KDSegmentatorLib.dicom.sources import Source

DICOM_SUFFIXES = (".zip", ".dcm")


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """A scan that was read.

    Attributes:
        source: where it was read.
        volume: the image.
        series: all of it, if it is DICOM.
    """

    source: Source
    volume: Volume
    series: DicomSeries | None = None

    @property
    def sha256(self) -> str:
        """Hash of the file, or of the files of the series.

        Raises:
            OSError: the file cannot be read any more.
        """
        return self.series.sha256 if self.series is not None else file_sha256(Path(cast("str | Path", self.source)))


def is_dicom_source(source: Source) -> bool:
    """Return whether a scan is read as DICOM: a folder, a .zip, a DICOM file, or several files."""
    if isinstance(source, (list, tuple)) and source:
        return True
    if not isinstance(source, (str, os.PathLike)) or not source:
        return False  # nothing that could be read
    path = Path(source)
    try:
        folder = path.is_dir()
    except OSError:  # a name that is too long, for example
        return False
    if folder or path.suffix.lower() in DICOM_SUFFIXES:
        return True
    return image_suffix(path) is None and is_dicom_file(path)


def source_sha256(path: Path) -> str:
    """Return the hash of an image file or an archive, or of all DICOM files in a folder, without reading the scan.

    Raises:
        ImageReadError: there is no DICOM file in the folder.
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        return file_sha256(path)
    from KDSegmentatorLib.dicom.series import files_sha256

    return files_sha256(path)


def read_scan(
    source: Source,
    *,
    series: str | None = None,
    frame: int | None = None,
    allow_constant: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Scan:
    """Read a scan.

    Args:
        source: an image file (:data:`KDSegmentatorLib.io.images.READ_SUFFIXES`); or DICOM: a folder, a .zip, a file, or
            files (:func:`KDSegmentatorLib.dicom.series.read_series`).
        series: which of several DICOM series: its UID, its number, or its description.
        frame: which volume of a 4-D image file, from 0.
        allow_constant: accept an image file whose voxels all have the same value.
        check: called again and again; may raise to stop.

    Raises:
        InvalidSettingsError: there are several series and none was chosen; or ``series`` or ``frame`` is given for what
            has none.
        MissingPackageError: it is DICOM, and the extra ``dicom`` is not installed.
        KDSegmentatorError: see :func:`KDSegmentatorLib.io.images.read_volume` and
            :func:`KDSegmentatorLib.dicom.series.read_series`.

    Examples:
        >>> scan = read_scan("study.zip", series="12")
        >>> scan.volume.size, scan.series.modality
    """
    if is_dicom_source(source):
        from KDSegmentatorLib.dicom.series import read_series

        if frame is not None:
            raise InvalidSettingsError("a frame is chosen of a 4-D image file; of DICOM, choose a series")
        read = read_series(source, series=series, check=check)
        return Scan(source=source, volume=read.volume, series=read)
    if series is not None:
        raise InvalidSettingsError(f"{source} is an image file, which has no series {series!r}; leave --series out")
    path = cast("str | Path", source)
    return Scan(source=path, volume=images.read_volume(path, frame=frame, allow_constant=allow_constant))


def read_volume(
    source: Source, *, series: str | None = None, frame: int | None = None, allow_constant: bool = False
) -> Volume:
    """Read a 3-D image: an image file or a DICOM series; see :func:`read_scan`.

    Args:
        source: the file, folder or archive.
        series: which of several DICOM series.
        frame: which volume of a 4-D image file, from 0.
        allow_constant: accept an image file whose voxels all have the same value.

    Examples:
        >>> volume = read_volume("t1.nii.gz")
        >>> volume = read_volume("study/", series="12")
    """
    return read_scan(source, series=series, frame=frame, allow_constant=allow_constant).volume


def segment_scan(
    segmenter: Segmenter,
    scan: Scan,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelCheck | None = None,
) -> Segmentation:
    """Segment a scan; what its DICOM header says about it is checked, and said in the record.

    Args:
        segmenter: of a task.
        scan: from :func:`read_scan`.
        progress: called at every step.
        cancel: asked at every step.

    Raises:
        ImplausibleVolumeError: the series is of another modality than the pack's (a warning with
            ``check_input=False``).
        KDSegmentatorError: see :meth:`KDSegmentatorLib.segmenter.Segmenter.__call__`.
    """
    if scan.series is None:
        return segmenter(scan.volume, progress=progress, cancel=cancel)
    manifest = segmenter.choose(scan.volume, cancel=cancel).pack.manifest
    found = series_warnings(scan, manifest, refuse=segmenter.options.check_input)
    result = segmenter(scan.volume, progress=progress, cancel=cancel)
    return replace(result, record=replace(result.record, warnings=(*found, *result.record.warnings)))


def series_warnings(scan: Scan, manifest: Manifest, *, refuse: bool = True) -> tuple[ResultWarning, ...]:
    """Return what the user should know about a DICOM series before using the result; nothing for an image file.

    Args:
        scan: the scan.
        manifest: of the pack.
        refuse: whether another modality than the pack's is an error; else it is a warning.

    Raises:
        ImplausibleVolumeError: the series is of another modality, and ``refuse``.
    """
    if scan.series is None:
        return ()
    found = []
    modality = scan.series.modality
    if modality and modality != manifest.modality:
        error = ImplausibleVolumeError(
            f"the series is of modality {modality}, and {manifest.id} is made for {manifest.modality}. Give "
            f"a series of {manifest.modality}."
        )
        if refuse:
            raise error
        found.append(input_warning(error.finding, manifest))
    if scan.series.tilt is not None:
        degrees = scan.series.tilt.degrees
        found.append(
            ResultWarning(
                kind="tilted",
                pack_id=manifest.id,
                found=degrees,
                sentence=f"The images are tilted by {degrees:.1f} degrees, as with a CT's gantry: the scan was "
                "resampled onto a straight grid, on which the result lies; DICOM outputs lie on the tilted images.",
            )
        )
    return tuple(found)

"""A DICOM series as a volume: what is found in a folder, and one series of it read.

The volume's array is the stack of the images: (z, y, x) = (slice, row, column), slices ordered along the normal of the
images (row direction x column direction), so that the grid is right-handed, as ITK has it. Nothing is flipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.dicom.grid import slice_grid
from KDSegmentatorLib.dicom.headers import ImagePlane, planes, text, without_warnings
from KDSegmentatorLib.dicom.pixels import check_pixels, read_images
from KDSegmentatorLib.dicom.sources import Source, opened
from KDSegmentatorLib.dicom.summaries import SeriesSummary, summaries
from KDSegmentatorLib.dicom.tilt import TiltedSlices
from KDSegmentatorLib.errors import GeometryError, ImageReadError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.files import file_sha256

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class DicomSeries:
    """One series that was read and checked.

    Attributes:
        volume: (slice, row, column) in HU or the scanner's units, LPS mm; int16 where that holds every value, else
            float32. A tilted series was resampled onto a straight grid, whose slices lie in the planes of the images.
        datasets: the headers without pixel data, one for each slice in the order of the volume; a multi-frame image
            is one dataset.
        frame_numbers: for a multi-frame image the frame, from 1, of each slice in the order of the volume; else empty.
        tilt: how the images lie if they are tilted, as with a CT's gantry; None if they are not.
        uid: Series Instance UID.
        study_uid: Study Instance UID.
        modality: ``CT`` or ``MR``, ...
        description: Series Description, or empty.
        frame_of_reference_uid: Frame of Reference UID.
        sha256: of all bytes of its files, whatever their names and order.
    """

    volume: Volume
    datasets: tuple[Dataset, ...]
    frame_numbers: tuple[int, ...] = ()
    tilt: TiltedSlices | None = None
    uid: str
    study_uid: str
    modality: str
    description: str
    frame_of_reference_uid: str
    sha256: str

    def on_images(self, labels: Volume) -> npt.NDArray[Any]:
        """Return labels of :attr:`volume` as they lie on the images: (slice, row, column), in the order of the volume.

        Without a tilt these are the voxels themselves. On tilted images each pixel takes the label of the nearest
        voxel of its plane.

        Raises:
            GeometryError: the labels lie on another grid.
        """
        if not labels.same_grid(self.volume):
            raise GeometryError(
                f"the labels (size {labels.size}) do not lie on the grid of the series (size {self.volume.size}); "
                "give those that were made from its volume"
            )
        return labels.voxels if self.tilt is None else self.tilt.bring_back(labels.voxels)


def find_series(source: Source, *, check: Callable[[], None] = lambda: None) -> tuple[SeriesSummary, ...]:
    """Return the series of a source, by number; what is no DICOM file is left out. Headers alone are read.

    Args:
        source: a folder (looked through to the bottom), a .zip, one DICOM file (a multi-frame image, or a slice of the
            series in its folder that it belongs to), or files.
        check: called for every file; may raise to stop.

    Raises:
        ImageReadError: there is no such source, it cannot be read, it holds no DICOM file or more than
            :data:`~KDSegmentatorLib.dicom.sources.MAXIMUM_FILES`, or one is damaged.

    Examples:
        >>> for series in find_series("study/"):
        ...     print(series.title, series.uid)
    """
    with opened(source, check) as files, without_warnings():
        return _found(source, files, check)


def read_series(
    source: Source,
    *,
    series: str | None = None,
    check: Callable[[], None] = lambda: None,
    headers_only: bool = False,
) -> DicomSeries:
    """Read one series.

    Args:
        source: as in :func:`find_series`.
        series: which one, if there are several: its UID, its number, or its description.
        check: called for every file, again and again; may raise to stop.
        headers_only: do not read the values of the images; those of the volume are all 0.

    Raises:
        ImageReadError: there is no such source, no series that can be a volume, or a file is damaged, truncated, in
            colour or inverted.
        InvalidSettingsError: there are several series, or ``series`` is none of them or several.
        GeometryError: the images do not lie on one regular grid; the message says which one is wrong, and by how many
            mm.
        MissingPackageError: the images are compressed, and their decoder is not installed.

    Examples:
        >>> series = read_series("study/", series="12")
        >>> segmentation = Segmenter("brain-t1")(series.volume)
        >>> on_images = series.on_images(segmentation.volume)
    """
    with opened(source, check) as files, without_warnings():
        summary = _chosen(_found(source, files, check), series)
        members = {name: files[name] for name in summary.files}
        images = planes(members, check)
        _check_one_file_of_frames(images)
        if not headers_only:
            check_pixels(images)
        grid = slice_grid(images)
        shape = len(grid.planes), *grid.planes[0].size
        voxels = np.zeros(shape, np.int16) if headers_only else read_images(grid.planes, check)
        digest = _sha256(members)
    if grid.tilt is None:
        volume = Volume(voxels, grid.spacing, grid.origin, grid.direction)
    else:
        volume = grid.tilt.straighten(voxels, check)
    header = grid.planes[0].dataset
    multiframe = _is_multiframe(grid.planes[0])
    return DicomSeries(
        volume=volume,
        datasets=(header,) if multiframe else tuple(plane.dataset for plane in grid.planes),
        frame_numbers=tuple(plane.frame + 1 for plane in grid.planes) if multiframe else (),
        tilt=grid.tilt,
        uid=summary.uid,
        study_uid=summary.study_uid,
        modality=summary.modality,
        description=summary.description,
        frame_of_reference_uid=text(header, "FrameOfReferenceUID"),
        sha256=digest,
    )


def _check_one_file_of_frames(images: Sequence[ImagePlane]) -> None:
    files = {plane.path: plane.name for plane in images if _is_multiframe(plane)}
    if files and len({plane.path for plane in images}) > 1:
        raise ImageReadError(
            f"the series has several files, and {len(files)} with many frames each, parts or several volumes; "
            "give one of the files"
        )


def _is_multiframe(plane: ImagePlane) -> bool:
    return "PerFrameFunctionalGroupsSequence" in plane.dataset


def files_sha256(source: Source) -> str:
    """Return the hash of all DICOM files of a source, whatever their names and order.

    Raises:
        ImageReadError: there is no such source, or no DICOM file in it.
    """
    with opened(source) as files:
        return _sha256(files)


def _found(source: Source, files: Mapping[str, Path], check: Callable[[], None]) -> tuple[SeriesSummary, ...]:
    """Return the series of files; if the source is one file, that file alone or its series."""
    if not isinstance(source, (str, os.PathLike)) or Path(source).name not in files or Path(source).is_dir():
        return summaries(files, check)
    name = Path(source).name
    alone = summaries({name: files[name]}, check)
    if not alone or alone[0].images > 1 or alone[0].obstacle:
        return alone
    return tuple(one for one in summaries(files, check) if name in one.files)


def _chosen(found: Sequence[SeriesSummary], wanted: str | None) -> SeriesSummary:
    """Return the series that was asked for, or the only one that can be a volume."""
    if wanted is None:
        matches = [one for one in found if not one.obstacle] or found
        if len(matches) > 1 and not matches[0].obstacle:
            raise InvalidSettingsError(
                f"there are {len(matches)} series: {_listing(matches)}. Choose one with --series (series=)"
            )
    else:
        matches = [one for one in found if wanted in (one.uid, str(one.number), one.description)]
        if len(matches) != 1:
            problem = f"{len(matches)} series are called" if matches else "there is no series"
            raise InvalidSettingsError(
                f"{problem} {wanted!r}; there are: {_listing(found)}. Name one by its UID or its number"
            )
    if not matches or matches[0].obstacle:
        what = "; ".join(f"series {one.title}: {one.obstacle}" for one in matches) or "there is no series"
        raise ImageReadError(f"there is nothing to segment: {what}. Give the scan itself")
    return matches[0]


def _listing(series: Sequence[SeriesSummary]) -> str:
    return ", ".join(f"{one.title} {one.uid}".strip() for one in series)


def _sha256(files: Mapping[str, Path]) -> str:
    digest = sha256()
    for content in sorted({file_sha256(path) for path in files.values()}):
        digest.update(content.encode())
    return digest.hexdigest()

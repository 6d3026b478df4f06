"""Headers of DICOM files: which series there are, and where each image of one lies."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.uid import UID

from KDSegmentatorLib.errors import ImageReadError

if TYPE_CHECKING:
    from pydicom import Dataset

IMAGE_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
        "1.2.840.10008.5.1.4.1.1.4",  # MR
        "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.4",  # legacy converted enhanced MR
        "1.2.840.10008.5.1.4.1.1.128",  # PET
        "1.2.840.10008.5.1.4.1.1.128.1",  # legacy converted enhanced PET
        "1.2.840.10008.5.1.4.1.1.130",  # enhanced PET
    }
)
"""SOP classes whose images have a place in the patient."""

_SUMMARY_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber",
    "SeriesDescription",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SeriesSummary:
    """A series that was found, from its headers alone. No patient data.

    Attributes:
        uid: Series Instance UID.
        study_uid: Study Instance UID.
        modality: ``CT``, ``MR``, ``SEG``, ...
        number: Series Number; None if there is none.
        description: Series Description, or empty.
        images: number of files.
        files: how they are called: paths below the folder, or names in the archive.
        obstacle: why it cannot be a volume (a segmentation, a report, a plain picture); empty if it may be one.
    """

    uid: str
    study_uid: str
    modality: str
    number: int | None
    description: str
    images: int
    files: tuple[str, ...]
    obstacle: str = ""

    @property
    def title(self) -> str:
        """How it is called in messages, for example ``12 "T1post" (MR, 22 images)``."""
        number = "?" if self.number is None else str(self.number)
        description = f' "{self.description}"' if self.description else ""
        return f"{number}{description} ({self.modality}, {self.images} image{'s' * (self.images != 1)})"


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePlane:
    """One image of a series: a file, or a frame of a multi-frame file.

    Attributes:
        name: for messages.
        path: of the file.
        dataset: its header.
        frame: its number in the file, from 0.
        position: (L, P, S) of the centre of the first pixel, mm.
        axes: 3 x 3; columns: along a row, down a column, their normal; orthonormal.
        spacing: distance of columns (along a row) and of rows, mm.
    """

    name: str
    path: Path
    dataset: Dataset
    frame: int
    position: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    spacing: tuple[float, float]


def summaries(files: Mapping[str, Path]) -> tuple[SeriesSummary, ...]:
    """Return the series that files belong to, by number and UID.

    Args:
        files: names for messages, and paths.

    Raises:
        ImageReadError: a file is damaged.
    """
    found: dict[str, list[tuple[str, Dataset]]] = {}
    for name, path in files.items():
        header = read_header(path, name, _SUMMARY_TAGS)
        if "SeriesInstanceUID" in header:  # a DICOMDIR has none
            found.setdefault(str(header.SeriesInstanceUID), []).append((name, header))
    series = [_summary(uid, members) for uid, members in found.items()]
    return tuple(sorted(series, key=lambda one: (one.number is None, one.number or 0, one.uid)))


def read_header(path: Path, name: str, tags: list[str] | None = None) -> Dataset:
    """Return a file's header without its pixel data.

    Raises:
        ImageReadError: it is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, about values that are not used here
            header = dcmread(path, stop_before_pixels=True, specific_tags=tags)
            for keyword in ("SOPClassUID", "SOPInstanceUID"):  # anonymised away, yet in the file's own header
                if not header.get(keyword) and f"MediaStorage{keyword}" in header.file_meta:
                    setattr(header, keyword, header.file_meta[f"MediaStorage{keyword}"].value)
            return header
    except Exception as error:  # pydicom raises nearly everything on damaged files
        raise ImageReadError(f"cannot read {name}: the file is damaged ({error}); copy or export it again") from error


def planes(files: Mapping[str, Path]) -> list[ImagePlane]:
    """Return every image of the files of one series, in the order of the files.

    Raises:
        ImageReadError: a header is damaged, or does not say where an image lies.
    """
    return [plane for name, path in files.items() for plane in _planes_of(name, path, read_header(path, name))]


def _planes_of(name: str, path: Path, header: Dataset) -> Iterator[ImagePlane]:
    if "PerFrameFunctionalGroupsSequence" not in header:
        yield _plane(name, path, header, 0, header, header, header)
        return
    shared = header.get("SharedFunctionalGroupsSequence") or [None]
    for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        groups = [
            _group(keyword, frame, shared[0], f"frame {number + 1} of {name}")
            for keyword in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        ]
        yield _plane(f"frame {number + 1} of {name}", path, header, number, *groups)


def _group(keyword: str, frame: Dataset, shared: Dataset | None, name: str) -> Dataset:
    for place in (frame, shared):
        if place is not None and place.get(keyword):
            group: Dataset = place[keyword].value[0]
            return group
    raise ImageReadError(f"{name} has no {keyword}: it is not said where it lies in the patient; export it again")


def _plane(
    name: str, path: Path, header: Dataset, frame: int, position: Dataset, orientation: Dataset, measures: Dataset
) -> ImagePlane:
    first = _numbers(position, "ImagePositionPatient", 3, name)
    cosines = _numbers(orientation, "ImageOrientationPatient", 6, name)
    between_rows, between_columns = _numbers(measures, "PixelSpacing", 2, name)
    if min(between_rows, between_columns) <= 0:
        raise ImageReadError(
            f"{name} has a Pixel Spacing of {between_rows:g} x {between_columns:g} mm; export it again"
        )
    return ImagePlane(
        name=name,
        path=path,
        dataset=header,
        frame=frame,
        position=first,
        axes=_orthonormal(cosines.reshape(2, 3), name),
        spacing=(float(between_columns), float(between_rows)),
    )


_LARGEST_COSINE_ERROR = 1e-2


def _orthonormal(rows: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
    """Return the axes of an image whose cosines were written with few digits."""
    deviation = float(np.abs(rows @ rows.T - np.eye(2)).max())
    if deviation > _LARGEST_COSINE_ERROR:
        raise ImageReadError(
            f"{name} has an Image Orientation whose directions are not perpendicular unit vectors (off by "
            f"{deviation:.2g}); export it again"
        )
    along = rows[0] / np.linalg.norm(rows[0])
    down = rows[1] - (rows[1] @ along) * along
    down /= np.linalg.norm(down)
    return np.stack([along, down, np.cross(along, down)], axis=1)


def _numbers(dataset: Dataset, keyword: str, count: int, name: str) -> npt.NDArray[np.float64]:
    try:
        value: Any = dataset.get(keyword)
        numbers = np.asarray([] if value is None else value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ImageReadError(
            f"{name} has no usable {keyword} ({count} numbers): its place is not known; export it again"
        )
    return numbers


def _summary(uid: str, members: list[tuple[str, Dataset]]) -> SeriesSummary:
    header = members[0][1]
    try:
        number = int(header.get("SeriesNumber"))
    except (TypeError, ValueError):
        number = None
    others = sorted({str(one.get("SOPClassUID", "")) for _, one in members} - IMAGE_CLASSES)
    names = [UID(other).name.removesuffix(" Storage") or "no SOP class" for other in others]
    return SeriesSummary(
        uid=uid,
        study_uid=str(header.get("StudyInstanceUID", "")),
        modality=str(header.get("Modality") or "no modality"),
        number=number,
        description=str(header.get("SeriesDescription") or ""),
        images=len(members),
        files=tuple(name for name, _ in members),
        obstacle=f"it holds {', '.join(names)}, not a CT, MR or PET scan" if names else "",
    )

"""Headers of DICOM files, and where each image of a series lies."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from KDSegmentatorLib.dicom.archive import MAXIMUM_RATIO, RATIO_FREE_BYTES
from KDSegmentatorLib.errors import ImageReadError

_START_BYTES = 1024
_META_LENGTH_AT = 140
"""Where the length of the file's own header is: after preamble, prefix, tag and VR."""

_LARGEST_COSINE_ERROR = 1e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePlane:
    """One image of a series: a file, or a frame of a multi-frame file.

    Attributes:
        name: for messages.
        path: of the file.
        dataset: its header.
        frame: its number in the file, from 0.
        size: rows and columns.
        position: (L, P, S) of the centre of the first pixel, mm.
        axes: 3 x 3; columns: along a row, down a column, their normal; orthonormal.
        spacing: distance of columns (along a row) and of rows, mm.
        rescaling: holds Rescale Slope and Intercept, or a modality LUT, if there are any.
    """

    name: str
    path: Path
    dataset: Dataset
    frame: int
    size: tuple[int, int]
    position: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    spacing: tuple[float, float]
    rescaling: Dataset


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep pydicom's warnings, which are about values that are not used here, from the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield


def read_header(path: Path, name: str, tags: list[str] | None = None) -> Dataset:
    """Return a file's header without its pixel data.

    Raises:
        ImageReadError: it is damaged, or unpacks like a zip bomb.
    """
    try:
        with path.open("rb") as file:
            if DeflatedExplicitVRLittleEndian.encode() in file.read(_START_BYTES):
                _check_deflated(file, name)
            file.seek(0)
            header = dcmread(file, stop_before_pixels=True, specific_tags=tags)
        for keyword in ("SOPClassUID", "SOPInstanceUID"):  # anonymised away, yet in the file's own header
            if not header.get(keyword) and f"MediaStorage{keyword}" in header.file_meta:
                setattr(header, keyword, header.file_meta[f"MediaStorage{keyword}"].value)
        return header
    except (ImageReadError, MemoryError):
        raise
    except Exception as error:  # pydicom raises nearly everything on damaged files
        raise damaged(name, error) from error


def damaged(name: str, error: Exception) -> ImageReadError:
    """Return the error to raise when a file cannot be read."""
    return ImageReadError(f"cannot read {name}: the file is damaged ({error}); copy or export it again")


def planes(files: Mapping[str, Path], check: Callable[[], None] = lambda: None) -> list[ImagePlane]:
    """Return every image of the files of one series, in the order of the files; of files that are equal, the first.

    Args:
        files: names for messages, and paths.
        check: called for every file; may raise to stop.

    Raises:
        ImageReadError: a header is damaged, does not say where an image lies, or two images have one UID.
    """
    found: list[ImagePlane] = []
    names: dict[str, tuple[str, Path]] = {}
    for name, path in files.items():
        check()
        header = read_header(path, name)
        uid = text(header, "SOPInstanceUID")
        if uid and uid in names:
            if _digest(path) != _digest(names[uid][1]):
                raise ImageReadError(
                    f"{names[uid][0]} and {name} have one UID ({uid}), and are different images; remove the one that "
                    "does not belong to the series"
                )
            continue
        names[uid] = (name, path)
        try:
            found.extend(_planes_of(name, path, header))
        except (ImageReadError, MemoryError):
            raise
        except Exception as error:  # a value of another kind than its name says
            raise damaged(name, error) from error
    return found


def _check_deflated(file: BinaryIO, name: str) -> None:
    """Check what a deflated file unpacks to, since pydicom unpacks it in one piece.

    The deflated part starts after the file's own header, whose length is its first element.
    """
    file.seek(_META_LENGTH_AT)
    (length,) = struct.unpack("<I", file.read(4))
    file.seek(_META_LENGTH_AT + 4 + length)
    packed = file.read()
    limit = max(RATIO_FREE_BYTES, MAXIMUM_RATIO * len(packed))
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacking.decompress(packed, limit)
    if unpacking.unconsumed_tail:
        raise ImageReadError(
            f"cannot read {name}: its {len(packed):,} bytes would unpack to more than {limit:,}, as a zip bomb does; "
            "export it without compression"
        )


def _planes_of(name: str, path: Path, header: Dataset) -> Iterator[ImagePlane]:
    if "PerFrameFunctionalGroupsSequence" not in header:
        if (whole(header, "NumberOfFrames") or 1) > 1:
            raise ImageReadError(
                f"{name} has several frames and does not say where each lies; give the series as slices"
            )
        yield _plane(name, path, header, 0, [header] * 4)
        return
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        title = f"frame {number + 1} of {name}"
        groups = []
        for keyword in ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation"):
            items = frame.get(f"{keyword}Sequence") or shared.get(f"{keyword}Sequence") or [Dataset()]
            groups.append(items[0])
        yield _plane(title, path, header, number, groups)


def _plane(name: str, path: Path, header: Dataset, frame: int, groups: list[Dataset]) -> ImagePlane:
    position, orientation, measures, rescaling = groups
    cosines = _numbers(orientation, "ImageOrientationPatient", 6, name)
    between_rows, between_columns = (float(value) for value in _numbers(measures, "PixelSpacing", 2, name))
    if min(between_rows, between_columns) <= 0:
        raise ImageReadError(
            f"{name} has a Pixel Spacing of {between_rows:g} x {between_columns:g} mm; export it again"
        )
    rows, columns = whole(header, "Rows"), whole(header, "Columns")
    if not rows or not columns:
        raise ImageReadError(f"{name} has no image: its header gives no Rows or Columns; export it again")
    return ImagePlane(
        name=name,
        path=path,
        dataset=header,
        frame=frame,
        size=(rows, columns),
        position=_numbers(position, "ImagePositionPatient", 3, name),
        axes=_orthonormal(cosines.reshape(2, 3), name),
        spacing=(between_columns, between_rows),
        rescaling=rescaling,
    )


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


def value(dataset: Dataset, keyword: str) -> Any:
    """Return a value of a header, None if it is not there or damaged."""
    try:
        return dataset.get(keyword)
    except Exception:  # pydicom raises nearly everything on a value of another kind than its name says
        return None


def text(dataset: Dataset, keyword: str) -> str:
    """Return a value of a header as text that can be printed; empty if it is not there or damaged."""
    found = value(dataset, keyword)
    printable = ("" if found is None else str(found)).encode("utf-8", errors="replace").decode()
    return "".join(character if character.isprintable() else " " for character in printable).strip()


def whole(dataset: Dataset, keyword: str) -> int | None:
    """Return a value of a header as a whole number, None if it is not there or damaged."""
    try:
        return int(value(dataset, keyword))
    except (TypeError, ValueError, OverflowError):
        return None


def _numbers(dataset: Dataset, keyword: str, count: int, name: str) -> npt.NDArray[np.float64]:
    found = value(dataset, keyword)
    try:
        numbers = np.asarray([] if found is None else found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ImageReadError(
            f"{name} has no usable {keyword} ({count} numbers): its place is not known; export it again"
        )
    return numbers


def _digest(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()

"""Voxels of an image file: what its header says about them, and reading them, complete and checked.

Every format's module (``nifti``, ``mgh``, ``nrrd``, ``metaimage``) turns its header into a :class:`Header`; from there
on all formats are read alike. Numbers in headers are parsed by Python, which knows no locale: ITK reads a spacing of
1.5 as 1 where the decimal sign is a comma.
"""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, SupportsIndex, cast

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.arguments import described
from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import Matrix, Vector, Volume, check_placement, check_size, slabs
from KDSegmentatorLib.io.files import CHUNK_BYTES

Encoding = Literal["raw", "gzip", "zlib", "bzip2", "text", "hex"]

_MOST_DIGITS = 12
_MOST_FILES = 100_000
_TAIL_BYTES = 1 << 20
"""What may follow the voxels, as padding does; a few bytes of a compressed file can stand for terabytes."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an image file says about its voxels; sizes and placement are checked.

    Attributes:
        size: voxels along i, j, k.
        spacing: along i, j, k in mm.
        origin: (L, P, S) of the first voxel's centre in mm.
        direction: column n is the unit vector of index axis n in (L, P, S).
        dtype: of a voxel in the file, with its byte order.
        frames: number of volumes, above 1 in a 4-D image.
        interleaved: whether the frames of one voxel lie side by side, instead of one volume after the other.
        slope: intensity = slope x stored value + intercept.
        intercept: see ``slope``.
        files: that hold the voxels, one after the other, in equal parts.
        offset: bytes of each file before the (compressed) voxels; -1: the voxels are the last bytes.
        skip: bytes before the voxels after decompression.
        encoding: of the voxels.
    """

    size: tuple[int, int, int]
    spacing: Vector
    origin: Vector
    direction: Matrix
    dtype: np.dtype[Any]
    files: tuple[Path, ...]
    frames: int = 1
    interleaved: bool = False
    slope: float = 1.0
    intercept: float = 0.0
    offset: int = 0
    skip: int = 0
    encoding: Encoding = "raw"

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.frames < 1:
            raise GeometryError(f"the image has {self.frames} volumes: it is empty")
        check_placement(self.spacing, self.origin, self.direction)

    @property
    def grid(self) -> Volume:
        """The grid, with voxels that are all zero and take no memory."""
        return Volume(np.broadcast_to(np.uint8(0), self.size[::-1]), self.spacing, self.origin, self.direction)

    @property
    def voxel_count(self) -> int:
        """Number of voxels of one frame."""
        return math.prod(self.size)


def read_voxels(header: Header, frame: int | None = None) -> npt.NDArray[Any]:
    """Read the voxels of an image and scale them as its header says.

    Args:
        header: of the image.
        frame: which volume of a 4-D image, from 0.

    Returns:
        (z, y, x), in the type of the file, or as floating-point numbers if they are scaled.

    Raises:
        ImageReadError: a frame is needed, or not there; the voxels are truncated, damaged, NaN or infinite.
        OSError: a file cannot be read.
    """
    _check_frame(header, frame)
    if header.encoding == "text":
        voxels = _text_voxels(header)
    elif header.interleaved:
        voxels = np.frombuffer(_stored_bytes(header, 0, header.frames), header.dtype)
    else:
        first = frame or 0
        voxels = np.frombuffer(_stored_bytes(header, first, first + 1), header.dtype)
    if header.interleaved:
        voxels = voxels.reshape(-1, header.frames)[:, frame or 0]
    elif header.encoding == "text":
        voxels = voxels.reshape(header.frames, -1)[frame or 0]
    voxels = np.ascontiguousarray(voxels, header.dtype.newbyteorder("=")).reshape(header.size[::-1])
    check_finite(voxels)
    return _scaled(voxels, header)


def check_axes(sizes: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the size of a 3-D image, or of one volume of a 4-D one.

    Raises:
        ImageReadError: it has fewer or more axes.
    """
    if len(sizes) in (3, 4):
        return cast("tuple[int, int, int]", tuple(sizes[:3]))
    remedy = "give one volume of the series" if len(sizes) > 3 else "give a volume, not a single picture"
    raise ImageReadError(f"the image is {len(sizes)}-D ({' x '.join(map(str, sizes))}), not 3-D; {remedy}")


def check_finite(voxels: npt.NDArray[Any]) -> None:
    """Check that voxels (z, y, x) are numbers.

    Raises:
        ImageReadError: a voxel is NaN or infinite; the message names the first in the order of a file, i fastest.
    """
    # The extremes of an array with a NaN are NaN: no mask of its size is needed to find out that all is well.
    if voxels.dtype.kind != "f" or voxels.size == 0 or np.isfinite([voxels.min(), voxels.max()]).all():
        return
    index = np.unravel_index(int(np.argmin(np.isfinite(voxels))), voxels.shape)[::-1]
    raise ImageReadError(
        f"voxels are NaN or infinite, the first at (i, j, k) = {tuple(int(n) for n in index)}; replace them, for "
        "example by 0, if they lie outside the patient, otherwise make the image again"
    )


def components_error(count: int) -> ImageReadError:
    """Return the error for an image with several numbers a voxel."""
    return ImageReadError(
        f"it has {count} components a voxel (colour, vectors or complex numbers); give an image with one number a voxel"
    )


def numbers(texts: list[str], name: str) -> list[float]:
    """Return numbers of a text header, whatever the locale.

    Raises:
        GeometryError: one of them is none, or not finite.
    """
    try:
        values = [float(text.replace("_", "?")) for text in texts]  # 1_000 is a number to Python only
    except ValueError:
        values = [math.nan]
    if not all(math.isfinite(value) for value in values):
        raise GeometryError(f"the header's {name} ({' '.join(texts)}) is not finite; {_repair(texts)}")
    return values


def positive_numbers(texts: list[str], name: str) -> list[float]:
    """Return spacings of a text header.

    Raises:
        GeometryError: one of them is not a number above zero.
    """
    try:
        values = numbers(texts, name)
    except GeometryError:
        values = []
    if not values or min(values) <= 0:
        raise GeometryError(f"the spacing ({name}: {' '.join(texts)}) is not positive; {_repair(texts)}")
    return values


def _repair(texts: list[str]) -> str:
    comma = any("," in text for text in texts)
    return "write its numbers with a decimal point, not a comma" if comma else "repair the image's header"


def add_field(fields: dict[str, str], name: str, value: str) -> None:
    """Add a field of a text header.

    Raises:
        ImageReadError: the header has it already, with another value.
    """
    if fields.setdefault(name, value) != value:
        raise ImageReadError(
            f"the header says two different things: {name} is {fields[name]} and {value}. Find out which one is right, "
            "and delete the other"
        )


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return the sizes of a text header; what is no number counts as 0."""
    return tuple(int(word) if word.isdecimal() and len(word) < _MOST_DIGITS else 0 for word in text.split())


def data_files(header_path: Path, names: list[str]) -> tuple[Path, ...]:
    """Return the files that a header names for its voxels, relative to its own folder.

    Raises:
        ImageReadError: one of them is missing.
    """
    files = tuple(header_path.parent / name.replace("\0", "") for name in names)
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None or not files:
        raise ImageReadError(
            f"the voxels are in another file, {missing or 'which the header does not name'}, and that is missing; copy "
            "it into the header's folder, or save the image as one file with its voxels inside"
        )
    return files


def numbered_files(header_path: Path, pattern: str, numbers: range) -> tuple[Path, ...]:
    """Return the files that a header names by a pattern, as ``slice-%03d.raw``, and a range of numbers.

    Raises:
        ImageReadError: one of them is missing, or the pattern is none.
    """
    try:
        return data_files(header_path, [pattern % number for number in numbers[:_MOST_FILES]])
    except (TypeError, ValueError) as error:
        raise ImageReadError(
            f"the header names its files of voxels by {pattern!r}, which is no pattern ({error}); save the image as "
            "one file"
        ) from error


def _check_frame(header: Header, frame: int | None) -> None:
    if isinstance(frame, bool) or not (frame is None or isinstance(frame, SupportsIndex)):
        raise ImageReadError(f"frame must be a whole number, 0 for the first volume, not {described(frame)}")
    if frame is None and header.frames > 1:
        sizes = " x ".join(map(str, (*header.size, header.frames)))
        raise ImageReadError(
            f"the image is 4-D ({sizes}), not 3-D; give one volume of the series, or choose one with --frame "
            f"(frame=), 0 to {header.frames - 1}"
        )
    if frame is not None and not 0 <= frame < header.frames:
        there = "it holds one volume, 0" if header.frames == 1 else f"its volumes are 0 to {header.frames - 1}"
        raise ImageReadError(f"there is no volume {frame} (--frame) in the image; {there}")


def _stored_bytes(header: Header, first: int, last: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of the frames from ``first`` to before ``last``; all files are read to their ends."""
    frame_bytes = header.voxel_count * header.dtype.itemsize
    total = header.frames * frame_bytes
    if total % len(header.files):
        raise ImageReadError(f"its {len(header.files)} files of voxels cannot be equal parts of it; export it again")
    expected = total // len(header.files)
    start, stop = first * frame_bytes, last * frame_bytes
    kept = np.empty(stop - start, np.uint8)
    at = 0
    for path in header.files:
        for chunk in _voxel_chunks(path, header, expected):
            low, high = max(start, at), min(stop, at + len(chunk))
            if low < high:
                kept[low - start : high - start] = np.frombuffer(chunk, np.uint8)[low - at : high - at]
            at += len(chunk)
    return kept


def _voxel_chunks(path: Path, header: Header, expected: int) -> Iterator[bytes]:
    """Yield the voxels of a file; it is read on to its end, where gzip checks its sum.

    Raises:
        ImageReadError: the file holds less, far more, or is damaged.
    """
    present = 0
    try:
        with path.open("rb") as file:
            if header.offset < 0:
                file.seek(max(path.stat().st_size - expected, 0))
            else:
                file.seek(header.offset)
            for chunk in _skipped(_decoded(file, header.encoding), header.skip):
                if kept := chunk[: max(expected - present, 0)]:
                    yield kept
                present += len(chunk)
                if present > expected + _TAIL_BYTES:
                    raise ImageReadError(
                        f"the file is damaged: much more follows the {expected:,} bytes of voxels that its header "
                        "promises; copy or export it again"
                    )
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageReadError(f"the file is truncated or damaged ({error}); copy or export it again") from error
    except OSError as error:
        if error.errno is None:  # bz2 says so of damaged data
            raise ImageReadError(f"the file is truncated or damaged ({error}); copy or export it again") from error
        raise
    if present < expected:
        raise ImageReadError(
            f"the file is truncated: it holds {present:,} of {expected:,} bytes of voxels; copy or export it again"
        )


def _decoded(file: BinaryIO, encoding: Encoding) -> Iterator[bytes]:
    if encoding == "zlib":
        yield from _inflated(file)
        return
    stream: Any = file
    if encoding == "gzip":
        stream = gzip.GzipFile(fileobj=file)
    elif encoding == "bzip2":
        stream = bz2.BZ2File(file)
    while chunk := stream.read(CHUNK_BYTES):
        yield bytes.fromhex("".join(chunk.decode("ascii").split())) if encoding == "hex" else chunk


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    inflater = zlib.decompressobj(47)  # zlib or gzip, as MetaImage's own reader accepts both
    while not inflater.eof and (chunk := inflater.unconsumed_tail or file.read(CHUNK_BYTES)):
        yield inflater.decompress(chunk, CHUNK_BYTES)
    if not inflater.eof:
        raise ImageReadError("the file is truncated: its compressed voxels do not end; copy or export it again")


def _skipped(chunks: Iterator[bytes], skip: int) -> Iterator[bytes]:
    left = skip
    for chunk in chunks:
        yield chunk[left:]
        left = max(left - len(chunk), 0)
    if left > 0:
        raise ImageReadError(
            f"the header puts the first voxel at byte {skip:.4g} (vox_offset), beyond the end of the file: it is "
            "truncated or its header damaged; copy or export it again"
        )


def _text_voxels(header: Header) -> npt.NDArray[Any]:
    """Return voxels that are written as numbers in text."""
    expected = header.voxel_count * header.frames
    words: list[bytes] = []
    for path in header.files:
        with path.open("rb") as file:
            file.seek(max(header.offset, 0))
            words += file.read().split()
    if len(words) < expected:
        raise ImageReadError(
            f"the file is truncated: it holds {len(words):,} of {expected:,} voxels; copy or export it again"
        )
    kind = float if header.dtype.kind == "f" else int
    try:
        return np.array([kind(word) for word in words[:expected]], header.dtype)
    except (ValueError, OverflowError) as error:
        raise ImageReadError(f"the file is damaged ({error}); copy or export it again") from error


def _scaled(voxels: npt.NDArray[Any], header: Header) -> npt.NDArray[Any]:
    """Apply slope and intercept as ITK does: computed in float64, kept in float32 unless the file has float64."""
    if header.slope == 1 and header.intercept == 0:
        return voxels
    scaled = np.empty(voxels.shape, np.float64 if voxels.dtype == np.float64 else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for part in slabs(voxels):
            stored = voxels[part].astype(scaled.dtype).astype(np.float64)
            scaled[part] = stored * header.slope + header.intercept
    if not np.isfinite([scaled.min(), scaled.max()]).all():
        raise ImageReadError(
            f"the header is damaged: it scales the intensities by {header.slope:g} and adds {header.intercept:g}, "
            "beyond what a number can hold; export the image again"
        )
    return scaled

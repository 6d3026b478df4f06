"""Checks that all image formats share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from KDSegmentatorLib.errors import ImageReadError
from KDSegmentatorLib.io.files import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

_TAIL_BYTES = 1 << 20
"""What may follow the voxels, as padding does; a few bytes of a compressed file can stand for terabytes."""


def check_three_axes(shape: tuple[int, ...]) -> None:
    """Check that an image has three axes.

    Raises:
        ImageReadError: it has fewer or more.
    """
    if len(shape) != 3:
        remedy = "give one volume of the series" if len(shape) > 3 else "give a volume, not a single picture"
        raise ImageReadError(f"the image is {len(shape)}-D ({' x '.join(map(str, shape))}), not 3-D; {remedy}")


def check_finite(values: npt.NDArray[Any], size: tuple[int, ...], start: int = 0) -> None:
    """Check that voxels are numbers.

    Args:
        values: (n,), voxels in the order of the file, i fastest.
        size: voxels of the whole image along i, j, k.
        start: number of voxels before the first of ``values``.

    Raises:
        ImageReadError: a voxel is NaN or infinite; the message names the first.
    """
    # The extremes of an array with a NaN are NaN: no mask of its size is needed to find out that all is well.
    if values.size == 0 or (np.isfinite(values.min()) and np.isfinite(values.max())):
        return
    first = start + int(np.argmin(np.isfinite(values)))
    index = tuple(int(n) for n in np.unravel_index(first, size, order="F"))
    raise ImageReadError(
        f"voxels are NaN or infinite, the first at (i, j, k) = {index}; replace them, for example by 0, if they lie "
        "outside the patient, otherwise make the image again"
    )


def voxel_chunks(stream: BinaryIO, expected: int) -> Iterator[bytes]:
    """Read on to the end of a file, where gzip checks its sum, a chunk at a time.

    Args:
        stream: at the first voxel.
        expected: bytes of all voxels.

    Raises:
        ImageReadError: the file holds less, or far more.
    """
    present = 0
    while chunk := stream.read(CHUNK_BYTES):
        present += len(chunk)
        check_not_too_long(present, expected)
        yield chunk
    check_not_too_short(present, expected)


def check_not_too_short(present: int, expected: int) -> None:
    """Check the number of bytes at the end of a file.

    Raises:
        ImageReadError: there are less than expected.
    """
    if present < expected:
        raise ImageReadError(
            f"the file is truncated: it holds {present:,} of {expected:,} bytes of voxels; copy or export it again"
        )


def check_not_too_long(present: int, expected: int) -> None:
    """Check the number of bytes read so far, so that reading a file takes no longer than its image needs.

    Raises:
        ImageReadError: there are far more than expected.
    """
    if present > expected + _TAIL_BYTES:
        raise ImageReadError(
            f"the file is damaged: much more follows the {expected:,} bytes of voxels that its header promises; copy "
            "or export it again"
        )

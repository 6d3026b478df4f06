"""Checks that all image formats share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from KDSegmentatorLib.errors import ImageReadError

if TYPE_CHECKING:
    import numpy.typing as npt


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

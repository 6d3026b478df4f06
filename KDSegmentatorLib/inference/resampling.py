"""Resampling as nnU-Net's default functions do it, one axis at a time.

nnU-Net calls skimage's ``resize(mode="edge", anti_aliasing=False)``, which is ``scipy.ndimage.zoom`` in grid mode:
spline interpolation on a regular grid, a linear operation along each axis. So it is done here as one matrix an axis.
The matrices come from scipy itself, which is given the unit vectors; the result equals the reference up to rounding,
without skimage (which Slicer does not carry) and without the reference's 64 taps a voxel.

With strongly anisotropic voxels nnU-Net resamples the low-resolution axis apart ("separate z") with another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.packs.manifest import Resampling

ANISOTROPY_THRESHOLD = 3.0
"""Ratio of the largest to the smallest spacing above which the low-resolution axis is resampled apart."""

_BLOCK_ELEMENTS = 1 << 22
_MAXIMUM_TAPS = 2

Operator = npt.NDArray[np.float64]
"""(length out, length in): one axis resampled is ``operator @ values``."""


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> tuple[int, int, int]:
    """Return the shape at another spacing, rounded as nnU-Net rounds (half to even).

    All three are in the same axis order; the spacings in mm.
    """
    a, b, c = (round(old / new * n) for old, new, n in zip(spacing, new_spacing, shape, strict=True))
    return a, b, c


def separate_axis(resampling: Resampling, spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """Return the array axis that is resampled apart, or None for plain 3-D resampling.

    The rule is nnU-Net's: the current spacing decides if it is anisotropic, else the new one; there has to be exactly
    one axis of lowest resolution.
    """
    if resampling.force_separate_z is False:
        return None
    if resampling.force_separate_z or _anisotropic(spacing):
        deciding = spacing
    elif _anisotropic(new_spacing):
        deciding = new_spacing
    else:
        return None
    lowest = [axis for axis, value in enumerate(deciding) if max(deciding) / value == 1]
    return lowest[0] if len(lowest) == 1 else None


def axis_operators(
    shape: Sequence[int], new_shape: Sequence[int], resampling: Resampling, apart: int | None
) -> tuple[Operator | None, Operator | None, Operator | None]:
    """Return the operator of every axis; None where the length stays.

    Args:
        shape: (z, y, x) before.
        new_shape: (z, y, x) after.
        resampling: spline orders.
        apart: the axis with order ``order_z``, from :func:`separate_axis`.
    """
    operators = [
        None
        if before == after
        else _operator(before, after, resampling.order_z if axis == apart else resampling.order, axis == apart)
        for axis, (before, after) in enumerate(zip(shape, new_shape, strict=True))
    ]
    return operators[0], operators[1], operators[2]


def resample_image(
    image: npt.NDArray[np.float32],
    new_shape: Sequence[int],
    resampling: Resampling,
    apart: int | None,
    check: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float32]:
    """Return an image at another shape.

    Spline overshoot is clipped as skimage does: to the range of the image, or of each slice when the low-resolution
    axis is resampled apart.

    Args:
        image: (z, y, x).
        new_shape: (z, y, x).
        resampling: spline orders.
        apart: from :func:`separate_axis`.
        check: called every few million voxels; may raise to stop.
    """
    operators = list(axis_operators(image.shape, new_shape, resampling, apart))
    in_plane = [axis for axis in range(3) if axis != apart]
    # shrinking axes first: fewer voxels for the others
    in_plane.sort(key=lambda axis: new_shape[axis] / image.shape[axis])
    resampled = image
    for axis in in_plane:
        operator = operators[axis]
        if operator is not None:
            resampled = apply_operator(resampled, operator, axis, check)
    if resampling.order > 1 and resampled is not image:
        axes = None if apart is None else tuple(in_plane)
        low, high = image.min(axis=axes, keepdims=True), image.max(axis=axes, keepdims=True)
        np.clip(resampled, low, high, out=resampled)
    if apart is not None and (operator := operators[apart]) is not None:
        resampled = apply_operator(resampled, operator, apart, check)
    return resampled


def apply_operator(
    values: npt.NDArray[np.float32], operator: Operator, axis: int, check: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float32]:
    """Resample one spatial axis.

    Args:
        values: (z, y, x).
        operator: (length out, length in).
        axis: 0, 1 or 2 for z, y, x.
        check: called for every block; may raise to stop.

    Returns:
        float32; the products are summed in float64, as in the reference.
    """
    shape = list(values.shape)
    shape[axis] = operator.shape[0]
    result = np.empty(shape, dtype=np.float32)
    # blocks along an axis that is not resampled keep the float64 copies small
    along = 1 if axis == 0 else 0
    rows = max(1, _BLOCK_ELEMENTS * shape[along] // max(values.size, result.size))
    taps = _taps(operator)
    for start in range(0, shape[along], rows):
        check()
        block = (slice(None),) * along + (slice(start, start + rows),)
        part = values[block].astype(np.float64)
        if taps is not None:
            result[block] = _gather(part, taps, axis)
        elif axis == 2:
            result[block] = part @ operator.T
        elif axis == 1:
            result[block] = operator @ part
        else:
            result[block] = np.tensordot(operator, part, axes=1)
    return result


def _taps(operator: Operator) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]] | None:
    """Return the samples and weights (length out, taps) of every row if there are few, as up to order 1; else None.

    Splines of a higher order are filtered first, which spreads every sample over the whole axis.
    """
    count = int(np.count_nonzero(operator, axis=1).max())
    if count > _MAXIMUM_TAPS:
        return None
    samples = np.argsort(operator == 0, axis=1, kind="stable")[:, :count]
    return samples, np.take_along_axis(operator, samples, axis=1)


def _gather(
    part: npt.NDArray[np.float64], taps: tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]], axis: int
) -> npt.NDArray[np.float64]:
    """Return the weighted sum of a few samples along an axis of (z, y, x)."""
    samples, weights = taps
    along = [1, 1, 1]
    along[axis] = -1
    total = part.take(samples[:, 0], axis=axis) * weights[:, 0].reshape(along)
    for tap in range(1, samples.shape[1]):
        total += part.take(samples[:, tap], axis=axis) * weights[:, tap].reshape(along)
    return total


def _anisotropic(spacing: Sequence[float]) -> bool:
    return max(spacing) / min(spacing) > ANISOTROPY_THRESHOLD


@lru_cache(maxsize=16)
def _operator(before: int, after: int, order: int, apart: bool) -> Operator:
    """Return the matrix of scipy's resizing from ``before`` to ``after`` samples.

    The axis that is resampled apart goes through ``map_coordinates`` in the reference, the others through ``zoom``;
    both put sample n at (n + 1/2) * before / after - 1/2 and repeat the edge.
    """
    from scipy import ndimage

    if apart:
        positions = (np.arange(after) + 0.5) * (before / after) - 0.5
        columns = [
            ndimage.map_coordinates(unit, positions[None], order=order, mode="nearest") for unit in np.eye(before)
        ]
    else:
        columns = [
            ndimage.zoom(unit, after / before, order=order, mode="nearest", grid_mode=True) for unit in np.eye(before)
        ]
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float64)

"""Resampling as nnU-Net's default functions do it, one axis at a time.

nnU-Net calls skimage's ``resize(mode="edge", anti_aliasing=False)``, which is ``scipy.ndimage.zoom`` in grid mode:
spline interpolation on a regular grid, a linear operation along each axis. So it is done here as one matrix an axis
(:class:`KDSegmentatorLib.inference.axis_operator.AxisOperator`); the result equals the reference up to rounding,
without skimage (which Slicer does not carry) and without the reference's 64 taps a voxel.

With strongly anisotropic voxels nnU-Net resamples the low-resolution axis apart ("separate z") with another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.inference.axis_operator import AxisOperator, axis_operator
from KDSegmentatorLib.packs.manifest import Resampling

ANISOTROPY_THRESHOLD = 3.0
"""Ratio of the largest to the smallest spacing above which the low-resolution axis is resampled apart."""

AxisOperators = tuple[AxisOperator | None, AxisOperator | None, AxisOperator | None]
"""One an axis (z, y, x); None where the length stays."""


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
) -> AxisOperators:
    """Return the operator of every axis.

    Args:
        shape: (z, y, x) before.
        new_shape: (z, y, x) after.
        resampling: spline orders.
        apart: the axis with order ``order_z``, from :func:`separate_axis`.
    """
    operators = [
        None
        if before == after
        else axis_operator(before, after, resampling.order_z if axis == apart else resampling.order, axis == apart)
        for axis, (before, after) in enumerate(zip(shape, new_shape, strict=True))
    ]
    return operators[0], operators[1], operators[2]


def resampling_order(shape: Sequence[int], new_shape: Sequence[int], apart: int | None) -> list[int]:
    """Return the axes of an image that are resampled, first to last.

    Those that shrink come before those that grow: fewer voxels for the others. The axis that is resampled apart comes
    last, as it is resampled between slices that are done.

    Args:
        shape: (z, y, x) before.
        new_shape: (z, y, x) after.
        apart: from :func:`separate_axis`.
    """
    changed = [axis for axis in range(3) if shape[axis] != new_shape[axis]]
    return sorted(changed, key=lambda axis: (axis == apart, new_shape[axis] / shape[axis]))


def resample_image(
    image: npt.NDArray[np.float32],
    new_shape: Sequence[int],
    resampling: Resampling,
    apart: int | None,
    check: Callable[[], None] = lambda: None,
    threads: int = 1,
) -> npt.NDArray[np.float32]:
    """Return an image at another shape.

    Spline overshoot is clipped as skimage does: to the range of the image, or of each slice when the low-resolution
    axis is resampled apart.

    Args:
        image: (z, y, x).
        new_shape: (z, y, x).
        resampling: spline orders.
        apart: from :func:`separate_axis`.
        check: called again and again; may raise to stop.
        threads: pieces computed at a time.
    """
    operators = axis_operators(image.shape, new_shape, resampling, apart)
    resampled = image
    for axis in resampling_order(image.shape, new_shape, apart):
        if axis != apart and (operator := operators[axis]) is not None:
            resampled = operator.apply(resampled, axis, check, threads)
    if resampling.order > 1 and resampled is not image:
        axes = None if apart is None else tuple(axis for axis in range(3) if axis != apart)
        low, high = image.min(axis=axes, keepdims=True), image.max(axis=axes, keepdims=True)
        np.clip(resampled, low, high, out=resampled)
    if apart is not None and (operator := operators[apart]) is not None:
        resampled = operator.apply(resampled, apart, check, threads)
    return resampled


def _anisotropic(spacing: Sequence[float]) -> bool:
    return max(spacing) / min(spacing) > ANISOTROPY_THRESHOLD

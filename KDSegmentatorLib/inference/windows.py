"""The sliding window: where windows lie and how much their voxels count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

GAUSSIAN_SIGMA_FRACTION = 1 / 8
"""Standard deviation of the weights as a fraction of the window's length."""

GAUSSIAN_MAXIMUM = 10.0


def window_starts(shape: Sequence[int], patch_size: Sequence[int], step_fraction: float) -> list[tuple[int, int, int]]:
    """Return the first voxel of every window, in nnU-Net's order (last axis fastest).

    Windows are spread evenly with a step of at most ``step_fraction`` of their length.

    Args:
        shape: (z, y, x) of the padded image, nowhere smaller than the window.
        patch_size: (z, y, x) of a window.
        step_fraction: in (0, 1].
    """
    axes = []
    for length, patch in zip(shape, patch_size, strict=True):
        steps = math.ceil((length - patch) / (patch * step_fraction)) + 1
        stride = (length - patch) / (steps - 1) if steps > 1 else 0.0
        axes.append([int(np.round(stride * step)) for step in range(steps)])
    return [(z, y, x) for z, y, x in product(*axes)]


def padding(shape: Sequence[int], patch_size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the voxels to add below and above each axis, so that one window fits.

    The image stays in the centre; an odd voxel is added above.
    """
    missing = [max(0, patch - length) for length, patch in zip(shape, patch_size, strict=True)]
    return tuple((count // 2, count - count // 2) for count in missing)


def gaussian_weights(patch_size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return how much each voxel of a window counts, (z, y, x), in (0, 10].

    nnU-Net keeps the weights in float16 and lifts those that vanish there to the smallest that does not; the rounding
    is kept, so that overlapping windows are blended in the same proportions.
    """
    from scipy.ndimage import gaussian_filter1d

    weights = np.ones((1, 1, 1))
    for axis, length in enumerate(patch_size):
        unit = np.zeros(length)
        unit[length // 2] = 1
        line = gaussian_filter1d(unit, length * GAUSSIAN_SIGMA_FRACTION, mode="constant", cval=0)
        weights = weights * np.expand_dims(line, [other for other in range(3) if other != axis])
    half = (weights / weights.max() * GAUSSIAN_MAXIMUM).astype(np.float16)
    half[half == 0] = half[half > 0].min()
    rounded: npt.NDArray[np.float32] = half.astype(np.float32)
    return rounded

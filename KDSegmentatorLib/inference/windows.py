"""The sliding window: where windows lie, how much their voxels count, and in which strips of the plane they are run.

Where a slab of the whole plane does not fit into memory, a strip is blended and restored like a volume of its own, from
all the windows that reach into it, added up in the same order: so it gets what the whole plane would have got, and
windows on the border of two strips are run for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise, product

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.machine.hardware import detect_hardware

GAUSSIAN_SIGMA_FRACTION = 1 / 8
"""Standard deviation of the weights as a fraction of the window's length."""

GAUSSIAN_MAXIMUM = 10.0

_ALWAYS_TRIED = 1 << 28
"""Bytes of a slab for which the system is not asked how much memory there is."""

_SHARE = 0.5
"""Most of the available memory that a slab may take: the engine and the restoration need theirs."""

_FEWEST_ROWS = 8


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


def mirrored_axes(mirroring_axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return all subsets of the axes, the empty one first: the ways to mirror a window."""
    return [axes for count in range(len(mirroring_axes) + 1) for axes in combinations(mirroring_axes, count)]


def windows_reaching(
    starts: list[tuple[int, int, int]], shape: tuple[int, ...], patch_size: tuple[int, int, int], strip: slice | None
) -> list[tuple[int, int, int]]:
    """Return the windows that reach into a strip of the image.

    Args:
        starts: windows on the padded image.
        shape: (z, y, x) of the image.
        patch_size: (z, y, x) of a window.
        strip: range of the image's y; None for all.
    """
    if strip is None:
        return starts
    low = padding(shape, patch_size)[1][0]
    return [start for start in starts if strip.start + low - patch_size[1] < start[1] < strip.stop + low]


def strips(rows: int, slab_bytes: int) -> list[slice]:
    """Return ranges of y that are worked on one after the other: one, or as many as memory asks for.

    Args:
        rows: length of the plane along y, on the scan's own grid.
        slab_bytes: what a slab of the whole plane takes.
    """
    count = 1
    available = None if slab_bytes <= _ALWAYS_TRIED else detect_hardware().available_memory
    while rows // (2 * count) >= _FEWEST_ROWS and not _fits(slab_bytes // count, available):
        count *= 2
    bounds = [rows * number // count for number in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(bounds)]


def _fits(size: int, available: int | None) -> bool:
    needed = round(size / _SHARE)
    if available is not None and needed > available:
        return False
    try:
        np.empty(needed, dtype=np.uint8)  # a limit of the process, which is no property of the machine
    except MemoryError:
        return False
    return True

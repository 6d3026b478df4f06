"""Strips of the plane, where a slab of the whole plane does not fit into memory.

A strip is blended and restored like a volume of its own, from all the windows that reach into it, added up in the same
order: so it gets what the whole plane would have got, and windows on the border of two strips are run for both.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from KDSegmentatorLib.machine.hardware import detect_hardware

_ALWAYS_TRIED = 1 << 28
"""Bytes of a slab for which the system is not asked how much memory there is."""

_SHARE = 0.5
"""Most of the available memory that a slab may take: the engine and the restoration need theirs."""

_FEWEST_ROWS = 8


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

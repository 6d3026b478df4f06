"""Two segmentations in one, by turns, as the fields of a checkerboard: at their edges one sees where they differ."""

from __future__ import annotations

import numpy as np

from KDSegmentatorLib.analysis.label_pairs import TITLES, check_same_grid
from KDSegmentatorLib.geometry import Volume

FIELDS = 8
"""Fields along the longest side of what is labelled."""


def checkerboard(first: Volume, second: Volume, *, titles: tuple[str, str] = TITLES) -> Volume:
    """Return a label map that has the values of the first and of the second segmentation by turns.

    The fields are cubes of as many voxels that :data:`FIELDS` of them lie along the longest side of what either
    segmentation labels, at least two voxels each. The field at the first voxel of the grid is the first one's.

    Args:
        first: label values, (z, y, x).
        second: label values on the same grid, with the same meaning.
        titles: what to call the segmentations in an error message.

    Raises:
        GeometryError: the grids differ.
    """
    check_same_grid(first, second, titles)
    side = _side(first, second)
    fields = [np.arange(length) // side for length in first.voxels.shape]
    odd = (fields[0][:, None, None] + fields[1][:, None] + fields[2]) % 2 == 1
    return first.with_voxels(np.where(odd, second.voxels, first.voxels))


def _side(first: Volume, second: Volume) -> int:
    """Return how many voxels long a field is."""
    labelled = (first.voxels != 0) | (second.voxels != 0)
    longest = 0
    for axis in range(3):
        found = np.flatnonzero(labelled.any(axis=tuple({0, 1, 2} - {axis})))
        longest = max(longest, int(found[-1] - found[0]) + 1 if found.size else 0)
    return max(2, round(longest / FIELDS))

"""Where two segmentations disagree: a map, the place where one label does most, and both by turns as a checkerboard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.analysis.labels import TITLES, LabelPair, label_map, on_same_grid
from KDSegmentatorLib.analysis.surface_elements import nearest_distances, outer_voxels
from KDSegmentatorLib.geometry import MM3_PER_ML, Vector, Volume, vector


class Disagreement(IntEnum):
    """What a voxel of a disagreement map says."""

    NONE = 0
    """Both segmentations have the same label, or both none."""
    ONLY_IN_FIRST = 1
    """The first has a label, the second has none."""
    ONLY_IN_SECOND = 2
    """The second has a label, the first has none."""
    OTHER_LABEL = 3
    """Both have a label, but not the same one."""


@dataclass(frozen=True, kw_only=True)
class DisagreementRegion:
    """A connected region in which one segmentation has a label and the other does not.

    Attributes:
        index: (i, j, k) of the voxel deepest inside it.
        position: (L, P, S) of that voxel's centre in mm.
        volume_ml: of the region.
    """

    index: tuple[int, int, int]
    position: Vector
    volume_ml: float


def disagreement_map(
    first: Volume, second: Volume, values: Iterable[int] | None = None, *, titles: tuple[str, str] = TITLES
) -> Volume:
    """Return which voxels two segmentations disagree on, and how.

    Args:
        first: label values, (z, y, x).
        second: label values on the same grid, in any of its axis orders.
        values: the labels to look at, each > 0; all others count as background. None looks at all.
        titles: what to call the segmentations in an error message.

    Returns:
        Values of :class:`Disagreement`, uint8, on the same grid.

    Raises:
        GeometryError: the two volumes do not share a grid.
        UnsuitableVolumeError: one of the volumes is not a label map.
    """
    second = on_same_grid(first, second, titles)
    maps = label_map(first, titles[0]), label_map(second, titles[1])
    present = {value for labels in maps for value in labels.boxes}
    kept = np.zeros(max(present, default=0) + 1, dtype=np.uint16)
    for value in present if values is None else present.intersection(values):
        kept[value] = value
    result = np.zeros(first.voxels.shape, dtype=np.uint8)
    for slab, one, other in zip(result, maps[0].voxels, maps[1].voxels, strict=True):
        here, there = kept[one], kept[other]
        slab[here != there] = Disagreement.OTHER_LABEL
        slab[(here > 0) & (there == 0)] = Disagreement.ONLY_IN_FIRST
        slab[(here == 0) & (there > 0)] = Disagreement.ONLY_IN_SECOND
    return first.with_voxels(result)


def largest_disagreement(pair: LabelPair, grid: Volume) -> DisagreementRegion | None:
    """Return the largest region in which only one of two masks is, or None if they are equal.

    Voxels that share a face are connected. The deepest voxel is the one farthest from the nearest voxel outside of the
    region, in mm; of several the one nearest to the region's centre. Of regions of the same size, the one that comes
    first in the array is taken.

    Args:
        pair: the masks.
        grid: any volume on the grid that they were cropped from.
    """
    from scipy.ndimage import label

    difference = pair.first ^ pair.second
    regions, count = label(difference)
    if not count:
        return None
    sizes = np.bincount(regions[difference])
    largest = int(sizes.argmax())
    deepest = _deepest(regions == largest, pair.spacing)
    k, j, i = (int(n) + corner for n, corner in zip(deepest, pair.corner, strict=True))
    affine = grid.affine
    return DisagreementRegion(
        index=(i, j, k),
        position=vector(affine[:3, :3] @ (i, j, k) + affine[:3, 3]),
        volume_ml=int(sizes[largest]) * grid.voxel_volume / MM3_PER_ML,
    )


def _deepest(region: npt.NDArray[np.bool_], spacing: Vector) -> npt.NDArray[np.int64]:
    """Return the index (z, y, x) of the voxel deepest inside a region; the region has a border as the masks have."""
    places = np.flatnonzero(region)
    depths = nearest_distances(places, outer_voxels(region), spacing)
    voxels = np.stack(np.unravel_index(places, region.shape), axis=1)
    candidates = voxels[depths == depths.max()]
    from_centre = (candidates - voxels.mean(axis=0)) * np.asarray(spacing)
    deepest: npt.NDArray[np.int64] = candidates[np.square(from_centre).sum(axis=1).argmin()]
    return deepest


FIELDS = 8
"""Fields along the longest side of what is labelled."""


def checkerboard(first: Volume, second: Volume, *, titles: tuple[str, str] = TITLES) -> Volume:
    """Return a label map that has the values of the first and of the second segmentation by turns.

    The fields are cubes of as many voxels that :data:`FIELDS` of them lie along the longest side of what either
    segmentation labels, at least two voxels each. The field at the first voxel of the grid is the first one's.

    Args:
        first: label values, (z, y, x).
        second: label values on the same grid, in any of its axis orders, with the same meaning.
        titles: what to call the segmentations in an error message.

    Raises:
        GeometryError: the grids differ.
    """
    second = on_same_grid(first, second, titles)
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

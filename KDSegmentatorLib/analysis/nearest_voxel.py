"""Exact distances from some voxels to the nearest of others."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import Vector

_NEAR = 3.0
"""How far to look around a voxel before building a tree: in voxels, if they are cubes."""

_LEAF_SIZE = 32

Indices = npt.NDArray[np.int64]
Offset = tuple[int, int, int]


def reach(spacing: Vector) -> Offset:
    """Return how far :func:`nearest_distances` looks around a voxel, in voxels along each axis.

    Args:
        spacing: in mm, in the order of the array's axes.
    """
    radius = _radius(spacing)
    a, b, c = (int(radius / step) for step in spacing)
    return a, b, c


def nearest_distances(places: Indices, targets: npt.NDArray[np.bool_], spacing: Vector) -> npt.NDArray[np.float64]:
    """Return the Euclidean distance from the centre of each place to the centre of the nearest target, in mm.

    Surfaces of similar segmentations mostly coincide or lie a few voxels apart, so the voxels around each place are
    looked up first, the nearest first: the first target that is met is the nearest there is. What is left, those
    places without a target nearby, asks a k-d tree of all targets, which costs more but is exact at any distance. Both
    work on surface elements alone: a distance transform would visit every voxel of the box and keep three indices for
    each.

    Args:
        places: (n,), flat indices into ``targets``, at least :func:`reach` voxels away from every face of it.
        targets: (z, y, x), C-contiguous, at least one True.
        spacing: (z, y, x) in mm.

    Returns:
        (n,), in the order of ``places``.
    """
    from scipy.spatial import KDTree

    shape = targets.shape
    flat = targets.reshape(-1)
    strides = (shape[1] * shape[2], shape[2], 1)
    distances = np.empty(places.size)
    left = np.arange(places.size)
    for distance, offsets in _shells(spacing):
        found = np.zeros(places.size, dtype=np.bool_)
        for offset in offsets:
            found |= flat[places + sum(steps * stride for steps, stride in zip(offset, strides, strict=True))]
        distances[left[found]] = distance
        left, places = left[~found], places[~found]
        if not places.size:
            return distances
    # unbalanced, a tree is built in two thirds of the time, and points of a surface are spread evenly anyway
    tree = KDTree(_coordinates(np.flatnonzero(flat), shape, spacing), leafsize=_LEAF_SIZE, balanced_tree=False)
    distances[left] = tree.query(_coordinates(places, shape, spacing))[0]
    return distances


def _radius(spacing: Vector) -> float:
    """Return the radius of the neighbourhood in mm: about a hundred voxels, however flat or long they are."""
    return min(_NEAR * math.prod(spacing) ** (1 / 3), 2 * _NEAR * min(spacing))


@lru_cache(maxsize=8)
def _shells(spacing: Vector) -> tuple[tuple[float, tuple[Offset, ...]], ...]:
    """Return all offsets up to the radius by their distance in mm, the nearest first."""
    ranges = reach(spacing)
    shells: dict[float, list[Offset]] = {}
    for offset in np.ndindex(*(2 * steps + 1 for steps in ranges)):
        a, b, c = (n - steps for n, steps in zip(offset, ranges, strict=True))
        distance = math.sqrt((a * spacing[0]) ** 2 + (b * spacing[1]) ** 2 + (c * spacing[2]) ** 2)
        if distance <= _radius(spacing):
            shells.setdefault(distance, []).append((a, b, c))
    return tuple((distance, tuple(shells[distance])) for distance in sorted(shells))


def _coordinates(places: Indices, shape: tuple[int, ...], spacing: Vector) -> npt.NDArray[np.float64]:
    voxels = np.stack(np.unravel_index(places, shape), axis=1)
    coordinates: npt.NDArray[np.float64] = voxels * np.asarray(spacing)
    return coordinates

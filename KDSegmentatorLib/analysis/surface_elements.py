"""What the surface of a mask consists of, voxels or patches with areas, and exact distances to the nearest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import Vector

Corner = tuple[int, int, int]
Point = npt.NDArray[np.float64]

_CORNERS: tuple[Corner, ...] = tuple((z, y, x) for z, y, x in product((0, 1), repeat=3))
_AREA_DIGITS = 9


@dataclass(frozen=True, eq=False)
class SurfaceElements:
    """The elements of a mask's surface.

    Attributes:
        present: (z, y, x), C-contiguous; where there is an element. Neighbours are one spacing apart.
        places: (n,), flat indices of the elements, ascending.
        weights: (n,), what each of them counts: 1, or its area in mm^2.
    """

    present: npt.NDArray[np.bool_]
    places: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


def edge_voxels(mask: npt.NDArray[np.bool_]) -> SurfaceElements:
    """Return the voxels of a mask that share a face with a voxel outside of it, each of weight 1.

    These are MONAI's edges: the mask without its erosion by the six neighbours.

    Args:
        mask: (z, y, x), C-contiguous, with a border of False.
    """
    flat = mask.reshape(-1)
    edge = flat.copy()
    for step in _strides(mask):  # in one dimension: the border keeps rows and slices apart
        edge[step:] &= flat[:-step]
        edge[:-step] &= flat[step:]
    np.logical_xor(edge, flat, out=edge)  # what the erosion took away
    places = np.flatnonzero(edge)
    return SurfaceElements(edge.reshape(mask.shape), places, np.ones(places.size))


def outer_voxels(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the voxels outside of a mask that share a face with one inside.

    The nearest voxel outside of a mask to one inside is always among them: from any other outside voxel a step towards
    the inside one, along any axis that parts them, leads to an outside voxel that is nearer.

    Args:
        mask: (z, y, x), C-contiguous, with a border of False.
    """
    flat = mask.reshape(-1)
    outer = np.zeros_like(flat)
    for step in _strides(mask):
        outer[step:] |= flat[:-step]
        outer[:-step] |= flat[step:]
    outer &= ~flat
    return outer.reshape(mask.shape)


def patches(mask: npt.NDArray[np.bool_], spacing: Vector) -> SurfaceElements:
    """Return the patches of the surface that runs halfway between the voxels inside and outside of a mask.

    A patch lies amid the centres of eight neighbouring voxels of which some are inside; it is at the index of the first
    of them. Its area depends on which ones, as in marching cubes (:func:`patch_areas`). This is the surface of
    Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
    radiotherapy", arXiv:1809.04430.

    Args:
        mask: (z, y, x), C-contiguous, with a border of False.
        spacing: (z, y, x) in mm.
    """
    flat = mask.reshape(-1).view(np.uint8)
    strides = _strides(mask)
    codes = np.zeros(flat.size, dtype=np.uint8)
    for bit, corner in enumerate(_CORNERS):
        step = sum(n * stride for n, stride in zip(corner, strides, strict=True))
        codes[: flat.size - step] |= flat[step:] << np.uint8(bit)
    present = (codes != 0) & (codes != 255)
    places = np.flatnonzero(present)
    return SurfaceElements(present.reshape(mask.shape), places, patch_areas(spacing)[codes[places]])


@lru_cache(maxsize=8)
def patch_areas(spacing: Vector) -> npt.NDArray[np.float64]:
    """Return the area in mm^2 of the surface inside a cell of eight voxel centres, for each way to be inside.

    The cell's edges are cut in their middles where one end is inside and the other is not; the cuts are joined to
    closed polygons (Lorensen and Cline, "Marching cubes", SIGGRAPH 1987). Corners that are inside and joined by edges
    share a polygon, corners that touch across a face or the cell only do not; with more than four corners inside, the
    same holds for those outside, so that a mask and its complement have the same surface.

    A polygon that is not flat is cut into triangles from one of its vertices, the one that gives the largest area in a
    cubic cell. With these rules the areas are those of DeepMind's ``surface-distance`` and of MONAI's
    ``use_subvoxels`` at any spacing, which a test checks for all 256.

    Args:
        spacing: (z, y, x) in mm.

    Returns:
        (256,); bit n of the index tells whether corner n of ``itertools.product((0, 1), repeat=3)`` is inside.
    """
    areas = np.zeros(256)
    for code in range(1, 255):
        inside = [corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1]
        if len(inside) > 4:
            inside = [corner for corner in _CORNERS if corner not in inside]
        areas[code] = sum(_area(_polygon(group), spacing) for group in _connected(inside))
    areas.setflags(write=False)
    return areas


def _strides(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    return mask.shape[1] * mask.shape[2], mask.shape[2], 1


def _across(corner: Corner, axis: int) -> Corner:
    """Return the corner at the other end of an edge."""
    z, y, x = (1 - n if number == axis else n for number, n in enumerate(corner))
    return z, y, x


def _connected(corners: list[Corner]) -> list[list[Corner]]:
    """Return the groups of corners that are joined by edges."""
    left = set(corners)
    groups = []
    while left:
        group = [left.pop()]
        for corner in group:  # grows while it is read
            found = [other for axis in range(3) if (other := _across(corner, axis)) in left]
            left.difference_update(found)
            group += found
        groups.append(group)
    return groups


def _polygon(group: list[Corner]) -> Point:
    """Return the vertices, (n, 3), of the polygon that parts a connected group of one to four corners from the rest."""
    cuts = [(corner, axis) for corner in sorted(group) for axis in range(3) if _across(corner, axis) not in group]
    polygon = [cuts.pop(0)]
    while cuts:
        following = next(cut for cut in cuts if _adjacent(polygon[-1], cut))
        cuts.remove(following)
        polygon.append(following)
    vertices = np.array([corner for corner, _ in polygon], dtype=np.float64)
    for vertex, (_, axis) in zip(vertices, polygon, strict=True):
        vertex[axis] = 0.5
    return vertices


def _adjacent(first: tuple[Corner, int], second: tuple[Corner, int]) -> bool:
    """Return whether a side of the polygon joins two cuts, each given by its corner in the group and the edge's axis.

    It runs across a face: around the one corner that is in the group, along the edge of two that are, or around the one
    that is not.
    """
    (corner, axis), (other, other_axis) = first, second
    if corner == other:
        return axis != other_axis
    if axis == other_axis:
        return any(_across(corner, edge) == other for edge in range(3))
    return _across(corner, axis) == _across(other, other_axis)


def _area(polygon: Point, spacing: Vector) -> float:
    """Return the area of a polygon with vertices in units of the spacing, cut as :func:`patch_areas` says."""
    fans = [np.roll(polygon, -start, axis=0) for start in range(len(polygon))]
    # rounded, so that of equal ones the first is taken
    widest = max(fans, key=lambda fan: round(_fan_area(fan), _AREA_DIGITS))
    return _fan_area(widest * np.asarray(spacing))


def _fan_area(vertices: Point) -> float:
    sides = vertices[1:] - vertices[0]
    return float(np.linalg.norm(np.cross(sides[:-1], sides[1:]), axis=1).sum() / 2)


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

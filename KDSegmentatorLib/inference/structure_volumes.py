"""How large every structure of a label map is, where it is, and whether it may go on beyond the edge of the volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import MM3_PER_ML, Volume, slabs

EDGE_SHARE = 0.002
"""A structure touches the edge if more than this share of its voxels is in the outermost layer of the volume.

A plane through a brain holds 0.01 of its voxels, one through a small structure much more; a stray voxel beside a
structure holds less. One that is all there is of a label holds everything: how much a structure has to have is for who
knows its size (:data:`KDSegmentatorLib.inference.sanity.CUT_OFF_SHARE`).
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class StructureVolumes:
    """The structures of a label map, by label value; entry 0, the background, is 0, False and nan.

    Attributes:
        ml: volume in millilitres, float64.
        at_edge: whether it touches the edge of the volume, so that it may go on beyond it.
        places: (n, 3) float64, its centroid, (L, P, S) in mm from the centroid of all structures; nan if it is absent.
    """

    ml: npt.NDArray[np.float64]
    at_edge: npt.NDArray[np.bool_]
    places: npt.NDArray[np.float64]


def structure_volumes(
    segmentation: Volume, largest_value: int, check: Callable[[], None] = lambda: None
) -> StructureVolumes:
    """Return the volumes of the structures 1 to ``largest_value``.

    Args:
        segmentation: label values, unsigned, (z, y, x); larger values are left out.
        largest_value: of the labels.
        check: called once for each of the :func:`~KDSegmentatorLib.geometry.slabs`; may raise to stop the work.
    """
    voxels, length = segmentation.voxels, largest_value + 1
    # how many voxels of a structure there are at each z, y and x: all that is asked for follows from these
    profiles = [np.zeros((size, length), dtype=np.int64) for size in voxels.shape]
    for part in slabs(voxels):
        for z in range(part.start, part.stop):
            _add_plane(profiles, voxels[z], z)
        check()
    counts = profiles[0].sum(axis=0)
    outermost = np.sum([profile[0] + profile[-1] for profile in profiles], axis=0)
    at_edge = outermost > EDGE_SHARE * counts
    return StructureVolumes(
        ml=counts * np.float64(segmentation.voxel_volume / MM3_PER_ML),
        at_edge=at_edge,
        places=_places(profiles, counts, segmentation.affine[:3, :3]),
    )


def _add_plane(profiles: list[npt.NDArray[np.int64]], plane: npt.NDArray[np.unsignedinteger], z: int) -> None:
    length = profiles[0].shape[1]
    rows, columns = np.nonzero((plane > 0) & (plane < length))
    values = plane[rows, columns].astype(np.intp)
    profiles[0][z] = np.bincount(values, minlength=length)
    for profile, index in ((profiles[1], rows), (profiles[2], columns)):
        profile += np.bincount(index * length + values, minlength=profile.size).reshape(profile.shape)


def _places(
    profiles: list[npt.NDArray[np.int64]], counts: npt.NDArray[np.int64], axes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return centroids, (L, P, S) in mm from that of all; ``axes`` are the steps along i, j and k as columns."""
    present, total = counts > 0, counts.sum()
    places = np.full((len(counts), 3), np.nan)
    if total == 0:
        return places
    for axis, profile in enumerate(reversed(profiles)):  # x, y, z
        sums = np.arange(len(profile)) @ profile
        places[present, axis] = sums[present] / counts[present] - sums.sum() / total
    moved: npt.NDArray[np.float64] = places @ axes.T
    return moved

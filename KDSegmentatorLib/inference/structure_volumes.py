"""How large every structure of a label map is, and whether it may go on beyond the edge of the volume."""

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
    """The structures of a label map, by label value; entry 0, the background, is 0 and False.

    Attributes:
        ml: volume in millilitres, float64.
        at_edge: whether it touches the edge of the volume, so that it may go on beyond it.
    """

    ml: npt.NDArray[np.float64]
    at_edge: npt.NDArray[np.bool_]


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
    counts = np.zeros(length, dtype=np.int64)
    for part in slabs(voxels):
        slab = voxels[part]
        counts += np.bincount(slab[slab > 0], minlength=length)[:length]
        check()
    outermost = np.zeros(length, dtype=np.int64)
    for axis in range(3):
        for layer in (0, -1):
            face = voxels.take(layer, axis=axis).reshape(-1)
            outermost += np.bincount(face, minlength=length)[:length]
    at_edge = outermost > EDGE_SHARE * counts
    at_edge[0] = False
    return StructureVolumes(ml=counts * np.float64(segmentation.voxel_volume / MM3_PER_ML), at_edge=at_edge)

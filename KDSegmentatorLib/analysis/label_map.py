"""A volume as a label map: whole numbers that name structures, and the box of each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.plausibility import LABEL_MAP_VALUES
from KDSegmentatorLib.packs.rules import MAXIMUM_LABELS

Box = tuple[slice, slice, slice]
"""Where something lies in an array, (z, y, x)."""

LabelVoxels = npt.NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """The labels of a volume.

    Attributes:
        voxels: label values, (z, y, x), 0 is background.
        boxes: label value to the smallest box that holds it, for the values that occur, in ascending order.
    """

    voxels: LabelVoxels
    boxes: dict[int, Box]


def label_map(volume: Volume, title: str = "the volume") -> LabelMap:
    """Return a volume's labels; voxels of 8 or 16 bits without sign are not copied.

    Args:
        volume: label values in any number format.
        title: what to call the volume in an error message.

    Raises:
        UnsuitableVolumeError: the voxels are not whole numbers from 0 to ``MAXIMUM_LABELS``, or change from voxel to
            voxel as a scan's do.
    """
    from scipy.ndimage import find_objects

    voxels = _whole_numbers(volume.voxels, title)
    found = enumerate(find_objects(voxels), start=1)
    boxes = {value: box for value, box in found if box is not None}
    if len(boxes) >= LABEL_MAP_VALUES and _changes_all_the_time(voxels):
        raise UnsuitableVolumeError(
            f"{title} holds {len(boxes):,} different values that change from voxel to voxel: it looks like a scan, not "
            "a label map; give a segmentation"
        )
    return LabelMap(voxels=voxels, boxes=boxes)


def _whole_numbers(voxels: npt.NDArray[Any], title: str) -> LabelVoxels:
    if voxels.dtype in (np.uint8, np.uint16):
        return voxels
    if voxels.dtype.kind not in "biuf":
        raise UnsuitableVolumeError(f"{title} has voxels of type {voxels.dtype}; a label map holds whole numbers")
    low, high = float(voxels.min()), float(voxels.max())
    if not (low >= 0 and high <= MAXIMUM_LABELS):  # also if one of them is NaN
        raise UnsuitableVolumeError(
            f"{title} is not a label map: its values go from {low:g} to {high:g}, and labels are whole numbers from 0 "
            f"to {MAXIMUM_LABELS}; give a segmentation"
        )
    whole = voxels.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)
    if voxels.dtype.kind == "f" and not np.array_equal(whole, voxels):
        raise UnsuitableVolumeError(
            f"{title} is not a label map: some of its values are not whole numbers (it may be a scan, or a probability)"
            "; give a segmentation"
        )
    return whole


def _changes_all_the_time(voxels: LabelVoxels) -> bool:
    """Return whether fewer than half of the foreground voxels have the value of their neighbour along i."""
    foreground = voxels[:, :, 1:] > 0
    same = np.count_nonzero(foreground & (voxels[:, :, 1:] == voxels[:, :, :-1]))
    return bool(2 * same < np.count_nonzero(foreground))

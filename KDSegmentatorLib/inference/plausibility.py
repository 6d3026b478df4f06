"""Is this volume what the pack was made for? Cheap checks that catch a wrong file before minutes of work."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.packs.manifest import Modality

LABEL_MAP_VALUES = 32
"""A volume of whole numbers with fewer distinct values than this is taken for a label map."""

AIR_HU = -200.0
"""Every CT field of view holds air or lung below this value; no other modality uses it in more than stray voxels."""

AIR_FRACTION = 0.005
_REMEDY = "If it is right, allow it with --any-intensities (check_modality=False)"


def check_finite(volume: Volume) -> None:
    """Check that every voxel can be computed with in float32.

    Raises:
        UnsuitableVolumeError: the voxels are not real numbers, one is NaN, infinite or beyond float32, or all are
            equal.
    """
    voxels = volume.voxels
    if voxels.dtype.kind not in "biuf":
        raise UnsuitableVolumeError(f"voxels of type {voxels.dtype} are no intensities; give real numbers")
    if voxels.dtype.kind == "f":
        usable = np.abs(voxels) <= np.finfo(np.float32).max  # False for NaN as well
        if not usable.all():
            raise UnsuitableVolumeError(
                f"{int(np.count_nonzero(~usable)):,} voxels are NaN, infinite or too large for float32; replace them "
                "(for example by 0, outside the body) first"
            )
    if voxels.min() == voxels.max():
        raise UnsuitableVolumeError(f"every voxel has the same value ({voxels.flat[0]}); the volume shows nothing")


def check_intensities(volume: Volume, modality: Modality) -> None:
    """Check that the intensities can be those of a scan of this modality.

    Raises:
        UnsuitableVolumeError: it looks like a label map, or like another modality; the message says how to overrule.
    """
    if _looks_like_label_map(volume.voxels):
        raise UnsuitableVolumeError(
            f"the volume holds fewer than {LABEL_MAP_VALUES} different whole numbers: it looks like a label map, not a "
            f"scan. Give the scan itself. {_REMEDY}"
        )
    in_hounsfield = np.count_nonzero(volume.voxels < AIR_HU) >= AIR_FRACTION * volume.voxels.size
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    if modality == "CT" and not in_hounsfield:
        raise UnsuitableVolumeError(
            f"the pack is made for CT in Hounsfield units; this volume ({low:g} to {high:g}) has next to no air below "
            f"{AIR_HU:g} HU. Give a CT, rescaled to HU. {_REMEDY}"
        )
    if modality == "MR" and in_hounsfield:
        raise UnsuitableVolumeError(
            f"the pack is made for MR; this volume ({low:g} to {high:g}) looks like CT in Hounsfield units. Give an MR "
            f"scan. {_REMEDY}"
        )


def _looks_like_label_map(voxels: npt.NDArray[Any]) -> bool:
    sample = voxels.reshape(-1)[:: max(1, voxels.size // 10_000)]
    if np.unique(sample).size >= LABEL_MAP_VALUES or not (sample == np.round(sample)).all():
        return False  # the usual case, without a pass over all voxels
    values = np.unique(voxels)
    return bool(values.size < LABEL_MAP_VALUES and (values == np.round(values)).all())

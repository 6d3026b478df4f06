"""Clinical scans: a slice of several millimetres sees the mean of its thickness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distillation.augmentation.patch_transform import Image, Mask, PatchTransform

_THICKNESS_MM = (2.0, 6.0)


class ThickSlices(PatchTransform):
    """Averages over slices of 2 to 6 mm along a random axis, and interpolates back between their middles.

    What is outside takes no part in the averages. An axis whose voxels are as thick as the slices already stays.

    Args:
        spacing: of the voxels along z, y and x, in mm.
    """

    def __init__(self, spacing: Sequence[float]) -> None:
        super().__init__()
        self.spacing = tuple(spacing)

    def changed(self, image: Image, inside: Mask, rng: np.random.Generator) -> Image:
        """Return the image as thick slices show it, (z, y, x)."""
        axis = int(rng.integers(3))
        thickness = rng.uniform(*_THICKNESS_MM) / self.spacing[axis]
        phase = rng.random()
        if thickness <= 1:
            return image
        operator = slices_and_back(image.shape[axis], thickness, phase)
        if inside.all():
            return _along(axis, operator, image)
        weight = _along(axis, operator, inside.astype(np.float32))
        total = _along(axis, operator, np.where(inside, image, np.float32(0)))
        averaged: Image = total / np.maximum(weight, np.float32(1e-6))
        return averaged


def slices_and_back(count: int, thickness: float, phase: float) -> npt.NDArray[np.float32]:
    """Return the (count, count) matrix that takes voxels to what they are after thick slices; each row sums to 1.

    Args:
        count: voxels along the axis.
        thickness: of a slice, in voxels; slices touch each other.
        phase: which share of the first slice lies before the first voxel, in [0, 1).
    """
    edges = np.arange(-phase * thickness, count + thickness, thickness)
    low, high = edges[:-1, None], edges[1:, None]
    voxels = np.arange(count)
    seen = np.clip(np.minimum(high, voxels + 1) - np.maximum(low, voxels), 0, None)
    present = seen.sum(axis=1) > 1e-9  # the last slice may lie beyond
    seen, middles = seen[present], ((low + high) / 2)[present, 0]
    averages = seen / seen.sum(axis=1, keepdims=True)
    between = np.stack([np.interp(voxels + 0.5, middles, one) for one in np.eye(len(middles))], axis=1)
    return np.asarray(between @ averages, dtype=np.float32)


def _along(axis: int, operator: npt.NDArray[np.float32], image: Image) -> Image:
    return np.moveaxis(np.tensordot(operator, image, axes=(1, axis)), 0, axis)

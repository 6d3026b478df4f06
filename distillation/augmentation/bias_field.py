"""Other coils: intensities multiplied by a smooth random field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillation.augmentation.patch_transform import Image, Mask, PatchTransform, intensity_range
from distillation.synthesis.intensities import random_bias


class BiasField(PatchTransform):
    """Multiplies by the field that made images have (:func:`distillation.synthesis.intensities.random_bias`).

    Normalised intensities may be negative; the darkest inside count as 0.

    Args:
        spacing: of the voxels along z, y and x, in mm.
    """

    def __init__(self, spacing: Sequence[float]) -> None:
        super().__init__()
        self.spacing = tuple(spacing)

    def changed(self, image: Image, inside: Mask, rng: np.random.Generator) -> Image:
        """Return the image times a random field, (z, y, x)."""
        low, _ = intensity_range(image[inside])
        axes = [np.arange(count) * length for count, length in zip(image.shape, self.spacing, strict=True)]
        field = random_bias(rng, [(0.0, float(axis[-1]) + 1e-3) for axis in axes])
        multiplied: Image = (image - low) * np.exp(field.on(axes))
        return multiplied

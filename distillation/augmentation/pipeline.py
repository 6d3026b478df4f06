"""Where our transforms stand in nnU-Net's pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from distillation.augmentation.bias_field import BiasField
from distillation.augmentation.random_contrast import RandomContrast
from distillation.augmentation.settings import AugmentationSettings
from distillation.augmentation.thick_slices import ThickSlices


def with_augmentation(stock: Any, settings: AugmentationSettings, spacing: Sequence[float]) -> Any:
    """Return nnU-Net's pipeline with our transforms between its spatial ones and its noise, as an image comes about.

    Args:
        stock: what ``nnUNetTrainer.get_training_transforms`` returns.
        settings: how often what happens; what never does is left out, and takes no random numbers. Their label
            interpolation is set in nnU-Net's spatial transform.
        spacing: of the patches' voxels along z, y and x, in mm.
    """
    ours: list[tuple[float, BasicTransform]] = [
        (settings.random_contrast, RandomContrast()),
        (settings.bias_field, BiasField(spacing)),
        (settings.thick_slices, ThickSlices(spacing)),
    ]
    added = [RandomTransform(transform, apply_probability=share) for share, transform in ours if share > 0]
    spatial = [
        place
        for place, transform in enumerate(stock.transforms)
        if isinstance(transform, (SpatialTransform, Convert2DTo3DTransform))
    ]
    for transform in stock.transforms:
        if isinstance(transform, SpatialTransform) and settings.label_interpolation == "nearest":
            transform.mode_seg = "nearest"
    place = max(spatial) + 1
    return ComposeTransforms([*stock.transforms[:place], *added, *stock.transforms[place:]])

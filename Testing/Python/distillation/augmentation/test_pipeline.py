from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from distillation.augmentation.pipeline import with_augmentation
from distillation.augmentation.settings import NNUNETS_OWN, AugmentationSettings

PATCH = (16, 24, 16)


def stock(*, in_plane: bool = False, masked: bool = True) -> Any:
    return nnUNetTrainer.get_training_transforms(
        PATCH, (-0.5, 0.5), [[1, 1, 1]], None, in_plane, use_mask_for_norm=[masked]
    )


def names(pipeline: Any) -> list[str]:
    return [type(getattr(each, "transform", each)).__name__ for each in pipeline.transforms]


def drawn(pipeline: Any, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    np.random.seed(seed)
    image, labels = torch.randn(1, *PATCH), torch.randint(-1, 3, (1, *PATCH), dtype=torch.int16)
    image: torch.Tensor = pipeline(image=image, segmentation=labels)["image"]
    return image


@pytest.mark.parametrize("in_plane", [False, True])
def test_ours_come_between_space_and_noise(in_plane: bool) -> None:
    settings = AugmentationSettings(random_contrast=0.5, bias_field=0.1, thick_slices=1)
    found = names(with_augmentation(stock(in_plane=in_plane), settings, (1.0, 1.0, 1.0)))
    place = found.index("RandomContrast")
    assert found[place : place + 4] == ["RandomContrast", "BiasField", "ThickSlices", "GaussianNoiseTransform"]
    assert found[place - 1] == ("Convert2DTo3DTransform" if in_plane else "SpatialTransform")
    assert [name for name in found if name not in found[place : place + 3]] == names(stock(in_plane=in_plane))


def test_nothing_is_nnunets_own_to_the_last_random_number() -> None:
    ours = with_augmentation(stock(), NNUNETS_OWN, (1.0, 1.0, 1.0))
    assert names(ours) == names(stock())
    for seed in range(5):
        assert torch.equal(drawn(ours, seed), drawn(stock(), seed))


def test_what_lies_outside_stays_at_nnunets_zero() -> None:
    pipeline = with_augmentation(
        stock(), AugmentationSettings(random_contrast=1, bias_field=1, thick_slices=1), (1.0, 1.0, 1.0)
    )
    for seed in range(5):
        torch.manual_seed(seed)
        labels = torch.randint(-1, 3, (1, *PATCH), dtype=torch.int16)
        sample = pipeline(image=torch.randn(1, *PATCH), segmentation=labels)
        assert torch.isfinite(sample["image"]).all()
        assert (sample["image"] == 0).any()
        assert sample["segmentation"][0].min() >= 0


def test_nearest_labels_differ_at_borders_only() -> None:
    blocks = torch.arange(8, dtype=torch.int16).reshape(2, 2, 2)
    labels = blocks.repeat_interleave(8, 0).repeat_interleave(12, 1).repeat_interleave(8, 2)[None]
    nearest = with_augmentation(
        stock(masked=False), AugmentationSettings(label_interpolation="nearest"), (1.0, 1.0, 1.0)
    )
    differing_somewhere = False
    for seed in range(20):
        samples = []
        for pipeline in (stock(masked=False), nearest):
            torch.manual_seed(seed)
            np.random.seed(seed)
            samples.append(pipeline(image=torch.randn(1, *PATCH), segmentation=labels))
        linear, other = samples
        assert torch.equal(linear["image"], other["image"])
        differing = linear["segmentation"][0] != other["segmentation"][0]
        assert set(other["segmentation"][0].unique().tolist()) <= set(range(-1, 8))
        assert differing.float().mean() < 0.1
        differing_somewhere |= bool(differing.any())
    assert differing_somewhere

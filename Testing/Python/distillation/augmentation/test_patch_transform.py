from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("batchgeneratorsv2", reason="install the extra 'distill'")

import torch

from distillation.augmentation.bias_field import BiasField
from distillation.augmentation.patch_transform import intensity_range
from distillation.augmentation.random_contrast import RandomContrast
from distillation.augmentation.thick_slices import ThickSlices

SPACING = (1.5, 1.0, 1.25)
ALL = [RandomContrast(), BiasField(SPACING), ThickSlices(SPACING)]


@pytest.mark.parametrize("transform", ALL, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("seed", range(5))
def test_only_the_inside_changes_and_keeps_its_statistics(
    patch: dict[str, Any], changed_by: Callable[..., Any], transform: Any, seed: int
) -> None:
    before, labels = patch["image"].numpy().copy(), patch["segmentation"].numpy().copy()
    after = changed_by(transform, seed)
    inside = labels[0] >= 0
    np.testing.assert_array_equal(after[:, ~inside], 0)
    assert not np.allclose(after[:, inside], before[:, inside], atol=1e-3)
    for old, new in zip(before, after, strict=True):
        assert new[inside].mean() == pytest.approx(old[inside].mean(), abs=1e-4)
        assert new[inside].std() == pytest.approx(old[inside].std(), rel=1e-4)
    np.testing.assert_array_equal(patch["image"].numpy(), before)
    np.testing.assert_array_equal(patch["segmentation"].numpy(), labels)
    assert (after.dtype, after.shape) == (before.dtype, before.shape)


@pytest.mark.parametrize("transform", ALL, ids=lambda each: type(each).__name__)
def test_numpys_state_decides(changed_by: Callable[..., Any], transform: Any) -> None:
    """A resumed training seeds it anew every epoch, and sees the same patches."""
    np.testing.assert_array_equal(changed_by(transform, 1), changed_by(transform, 1))
    assert not np.array_equal(changed_by(transform, 1), changed_by(transform, 2))


@pytest.mark.parametrize("transform", ALL, ids=lambda each: type(each).__name__)
def test_patches_with_nothing_to_see_stay(transform: Any) -> None:
    constant = {"image": torch.full((1, 8, 8, 8), 0.5), "segmentation": torch.zeros(1, 8, 8, 8, dtype=torch.int16)}
    noise = {"image": torch.randn(1, 8, 8, 8), "segmentation": torch.full((1, 8, 8, 8), -1, dtype=torch.int16)}
    for patch in (constant, noise):
        before = patch["image"].clone()
        after = transform(**patch)["image"]
        assert torch.isfinite(after).all()
        if patch is noise:
            assert torch.equal(after, before)


def test_the_range_leaves_outliers_out() -> None:
    values = np.linspace(0, 1, 80_001, dtype=np.float32)
    values[-8:] = 100
    assert intensity_range(values) == pytest.approx((0.005, 0.995), abs=1e-3)

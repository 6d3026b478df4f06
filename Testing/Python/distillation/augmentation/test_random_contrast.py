from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("batchgeneratorsv2", reason="install the extra 'distill'")

from distillation.augmentation.random_contrast import RandomContrast, random_curve


@given(st.integers(0, 2**32 - 1))
def test_a_curve_turns_once_at_most(seed: int) -> None:
    knots, values = random_curve(np.random.default_rng(seed))
    assert (knots[0], knots[-1]) == (0, pytest.approx(1))
    assert (np.diff(knots) > 0).all()
    signs = np.sign(np.diff(values))
    assert (signs != 0).all()
    assert np.count_nonzero(np.diff(signs)) <= 1


def test_half_of_the_curves_rise_and_the_others_are_of_every_kind() -> None:
    kinds = [np.sign(np.diff(random_curve(np.random.default_rng(seed))[1])) for seed in range(1000)]
    rising = np.mean([bool((signs > 0).all()) for signs in kinds])
    falling = np.mean([bool((signs < 0).all()) for signs in kinds])
    peaked = np.mean([signs[0] > 0 > signs[-1] for signs in kinds])
    hollow = np.mean([signs[0] < 0 < signs[-1] for signs in kinds])
    assert rising == pytest.approx(0.5, abs=0.05)
    assert min(falling, peaked, hollow) > 0.08


def test_equal_intensities_stay_equal(patch: dict[str, Any], changed_by: Callable[..., Any]) -> None:
    """One curve for every voxel: whatever had one intensity has one afterwards."""
    patch["image"] = (patch["image"] * 4).round() / 4
    before = patch["image"].numpy()[0]
    after = changed_by(RandomContrast(), 3)[0]
    inside = patch["segmentation"][0].numpy() >= 0
    for value in np.unique(before[inside]):
        assert np.ptp(after[inside & (before == value)]) < 1e-6

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("batchgeneratorsv2", reason="install the extra 'distill'")

from distillation.augmentation.thick_slices import ThickSlices, slices_and_back


@given(st.integers(2, 80), st.floats(1.01, 6), st.floats(0, 0.999))
def test_what_changes_slowly_is_kept(count: int, thickness: float, phase: float) -> None:
    operator = slices_and_back(count, thickness, phase)
    assert operator.shape == (count, count)
    assert (operator >= 0).all()
    np.testing.assert_allclose(operator.sum(axis=1), 1, atol=1e-5)
    ramp = np.arange(count, dtype=np.float32)
    margin = int(np.ceil(2 * thickness))
    inner = slice(margin, count - margin)
    np.testing.assert_allclose((operator @ ramp)[inner], ramp[inner], atol=thickness / 8 + 1e-3)


def test_whole_slices_by_hand() -> None:
    """Slices of two voxels, middles at 1, 3, 5: means, and between them a line."""
    operator = slices_and_back(6, 2.0, 0.0)
    voxels = np.array([0, 2, 4, 4, 8, 0], dtype=np.float32)  # means 1, 4, 4
    np.testing.assert_allclose(operator @ voxels, [1, 1 + 0.75, 1 + 2.25, 4, 4, 4], atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_detail_is_lost_along_one_axis_only(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    image = random.standard_normal((24, 26, 28)).astype(np.float32)
    changed = ThickSlices((0.5, 0.5, 0.5)).changed(image, np.ones(image.shape, dtype=bool), random)
    steps = [np.abs(np.diff(changed, axis=axis)).mean() / changed.std() for axis in range(3)]
    assert sum(step < 0.7 for step in steps) == 1
    assert sum(step > 1.0 for step in steps) == 2


def test_the_outside_takes_no_part() -> None:
    image = np.full((12, 12, 12), 5, dtype=np.float32)
    inside = np.zeros(image.shape, dtype=bool)
    inside[3:9, 2:10, 4:9] = True
    image[~inside] = -1000
    for seed in range(6):
        changed = ThickSlices((1.0, 1.0, 1.0)).changed(image, inside, np.random.default_rng(seed))
        np.testing.assert_allclose(changed[inside], 5, rtol=1e-5)


def test_voxels_that_are_as_thick_stay() -> None:
    image = np.random.default_rng(0).standard_normal((8, 8, 8)).astype(np.float32)
    changed = ThickSlices((7.0, 7.0, 7.0)).changed(image, np.ones(image.shape, dtype=bool), np.random.default_rng(1))
    np.testing.assert_array_equal(changed, image)

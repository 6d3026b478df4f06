from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from KDSegmentatorLib.inference.windows import gaussian_weights, padding, window_starts

SHAPES = st.tuples(*[st.integers(8, 70)] * 3)
PATCHES = st.tuples(*[st.integers(4, 40)] * 3)


@given(shape=SHAPES, patch=PATCHES, step=st.sampled_from([0.5, 0.25, 1.0]))
def test_windows_cover_every_voxel_and_stay_inside(
    shape: tuple[int, int, int], patch: tuple[int, int, int], step: float
) -> None:
    padded = [n + low + high for n, (low, high) in zip(shape, padding(shape, patch), strict=True)]
    covered = np.zeros(padded, dtype=bool)
    starts = window_starts(padded, patch, step)
    for start in starts:
        assert all(first >= 0 and first + length <= n for first, length, n in zip(start, patch, padded, strict=True))
        covered[tuple(slice(first, first + length) for first, length in zip(start, patch, strict=True))] = True
    assert covered.all()
    assert len(set(starts)) == len(starts)


@given(shape=SHAPES, patch=PATCHES)
def test_window_starts_equal_nnunet(shape: tuple[int, int, int], patch: tuple[int, int, int]) -> None:
    reference = pytest.importorskip("nnunetv2.inference.sliding_window_prediction", reason="needs nnU-Net")
    padded = [max(a, b) for a, b in zip(shape, patch, strict=True)]
    steps = reference.compute_steps_for_sliding_window(padded, patch, 0.5)
    assert window_starts(padded, patch, 0.5) == [(z, y, x) for z in steps[0] for y in steps[1] for x in steps[2]]


@pytest.mark.parametrize("patch", [(16, 16, 16), (40, 56, 40), (8, 64, 7), (5, 5, 5)])
def test_gaussian_weights_equal_nnunet(patch: tuple[int, int, int]) -> None:
    reference = pytest.importorskip("nnunetv2.inference.sliding_window_prediction", reason="needs nnU-Net")
    import torch

    expected = reference.compute_gaussian(patch, value_scaling_factor=10, device=torch.device("cpu")).float().numpy()
    np.testing.assert_array_equal(gaussian_weights(patch), expected)


def test_odd_padding_goes_above() -> None:
    assert padding((5, 10, 8), (8, 8, 9)) == ((1, 2), (0, 0), (0, 1))

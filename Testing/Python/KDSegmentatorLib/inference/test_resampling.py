from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.inference.resampling import resample_image, resampled_shape, separate_axis
from KDSegmentatorLib.packs.manifest import Resampling

SPACINGS = st.tuples(*[st.floats(0.4, 7.0)] * 3)
SHAPES = st.tuples(*[st.integers(2, 24)] * 3)


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    spacing=SPACINGS,
    new_spacing=SPACINGS,
    order=st.sampled_from([1, 3]),
    order_z=st.sampled_from([0, 1]),
    force=st.sampled_from([None, False, True]),
    seed=st.integers(0, 100),
)
def test_equals_nnunet(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    new_spacing: tuple[float, float, float],
    order: int,
    order_z: int,
    force: bool | None,
    seed: int,
) -> None:
    nnunet = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling", reason="needs nnU-Net")
    new_shape = tuple(max(1, n) for n in resampled_shape(shape, spacing, new_spacing))
    if np.prod(new_shape) > 200_000:
        new_shape = tuple(min(n, 40) for n in new_shape)
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    resampling = Resampling(order=order, order_z=order_z, force_separate_z=force)
    apart = separate_axis(resampling, spacing, new_spacing)
    _, expected_axis = nnunet.determine_do_sep_z_and_axis(force, spacing, new_spacing)
    assert apart == expected_axis
    expected = nnunet.resample_data_or_seg_to_shape(
        image[None], new_shape, spacing, new_spacing, is_seg=False, order=order, order_z=order_z, force_separate_z=force
    )[0]
    np.testing.assert_allclose(resample_image(image, new_shape, resampling, apart), expected, atol=2e-6)


@settings(max_examples=30)
@given(
    long=st.tuples(st.integers(33, 120), st.integers(33, 150)),
    others=st.tuples(*[st.tuples(st.integers(2, 9), st.integers(2, 9))] * 2),
    axis=st.integers(0, 2),
    order=st.sampled_from([1, 3]),
    threads=st.integers(1, 3),
)
def test_long_axes_equal_skimage(
    long: tuple[int, int], others: tuple[tuple[int, int], tuple[int, int]], axis: int, order: int, threads: int
) -> None:
    """Long enough for several bands of the matrix, whatever the axis."""
    transform = pytest.importorskip("skimage.transform", reason="needs scikit-image")
    lengths = list(others)
    lengths.insert(axis, long)
    shape, new_shape = zip(*lengths, strict=True)
    image = np.random.default_rng(long[0]).normal(size=shape).astype(np.float32)
    expected = transform.resize(image.astype(float), new_shape, order, mode="edge", clip=True, anti_aliasing=False)
    found = resample_image(image, new_shape, Resampling(order=order, order_z=0), None, threads=threads)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@given(shape=SHAPES, spacing=SPACINGS, new_spacing=SPACINGS)
def test_shape_equals_nnunet(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], new_spacing: tuple[float, float, float]
) -> None:
    nnunet = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling", reason="needs nnU-Net")
    assert resampled_shape(shape, spacing, new_spacing) == tuple(nnunet.compute_new_shape(shape, spacing, new_spacing))


def test_same_shape_is_returned_untouched() -> None:
    image = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    assert resample_image(image, image.shape, Resampling(order=3, order_z=0), None) is image


def test_spline_overshoot_is_clipped_to_the_range_of_the_image() -> None:
    image = np.zeros((12, 12, 12), np.float32)
    image[4:8, 4:8, 4:8] = 1
    resampled = resample_image(image, (20, 20, 20), Resampling(order=3, order_z=0), None)
    assert resampled.min() >= 0 and resampled.max() <= 1


def test_stops_when_check_raises() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resample_image(np.ones((4, 4, 4), np.float32), (8, 8, 8), Resampling(order=1, order_z=0), None, stop)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from distillation.synthesis.deformation import SmoothField, random_deformation, random_field
from distillation.synthesis.intensities import (
    Acquisition,
    Contrast,
    blurred,
    random_acquisition,
    random_contrast,
    t1_contrast,
    with_bias,
    with_gamma,
    with_noise,
)

GRID = Acquisition(start=(-20.0, -20.0, -20.0), shape=(40, 40, 40), spacing=(1.0, 1.0, 1.0), parts=(1, 1, 1))


def test_every_class_gets_its_mean_and_spread():
    classes = np.repeat(np.arange(4, dtype=np.uint8), 10)[:, None, None] * np.ones((1, 40, 40), np.uint8)
    contrast = Contrast(means=np.float32([0, 100, 150, 200]), stds=np.float32([0, 5, 10, 0]))
    painted = contrast.paint(np.random.default_rng(0), classes, GRID)
    assert painted.dtype == np.float32
    assert (painted[classes == 0] == 0).all()
    np.testing.assert_allclose(painted[classes == 3], 200, rtol=1e-6)
    for number, (mean, std) in enumerate(((100, 5), (150, 10)), start=1):
        assert painted[classes == number].mean() == pytest.approx(mean, abs=std)
        assert painted[classes == number].std() == pytest.approx(std, rel=0.35)


def test_t1_follows_the_prior_and_random_does_not(phantom):
    table = phantom[1]
    t1 = np.array([t1_contrast(np.random.default_rng(seed), table).means for seed in range(60)])
    np.testing.assert_allclose(t1.mean(0), table.prior[:, 0], atol=1.0)
    assert (t1.std(0) < 3).all()
    several = np.array([random_contrast(np.random.default_rng(seed), table).means for seed in range(60)])
    assert (several[:, 1:].std(0) > 40).all()
    assert (several >= 0).all()
    assert 10 < (several[:, 0] == 0).sum() < 50


def test_blur_keeps_the_mean_and_smooths():
    image = np.random.default_rng(0).random((40, 40, 40), dtype=np.float32)
    smooth = blurred(np.random.default_rng(1), image, GRID)
    assert smooth.mean() == pytest.approx(image.mean(), rel=1e-2)
    assert smooth.std() < image.std()


def test_gamma_keeps_the_order_and_black():
    image = np.linspace(0, 300, 4096, dtype=np.float32).reshape(16, 16, 16)
    curves = [with_gamma(np.random.default_rng(seed), image).ravel() for seed in range(8)]
    for curve in curves:
        assert curve[0] == 0
        assert (np.diff(curve) > 0).all()
    assert np.ptp([curve[2048] for curve in curves]) > 20
    black = np.zeros((8, 8, 8), np.float32)
    assert (with_gamma(np.random.default_rng(0), black) == 0).all()


def test_bias_is_smooth_and_positive():
    flat = np.full((40, 40, 40), 100, np.float32)
    ratios = []
    for seed in range(10):
        biased = with_bias(np.random.default_rng(seed), flat, GRID)
        assert (biased > 0).all()
        assert max(np.abs(step).max() for step in np.gradient(np.log(biased))) < 0.1
        ratios.append(biased.max() / biased.min())
    assert max(ratios) > 1.1


def test_noise_is_rician():
    dark, bright = np.zeros((60, 60, 60), np.float32), np.full((60, 60, 60), 1e4, np.float32)
    for seed in range(4):
        in_air = with_noise(np.random.default_rng(seed), dark)
        in_tissue = with_noise(np.random.default_rng(seed), bright)
        std = in_tissue.std()
        assert 0.004 * 255 * 0.99 <= std <= 0.08 * 255 * 1.01
        # Rayleigh's mean and standard deviation
        assert in_air.mean() == pytest.approx(std * np.sqrt(np.pi / 2), rel=0.01)
        assert in_air.std() == pytest.approx(std * np.sqrt(2 - np.pi / 2), rel=0.02)


def test_averaging_and_the_two_grids():
    acquisition = Acquisition(start=(-3.0, 0.0, 1.0), shape=(2, 3, 4), spacing=(5.0, 1.0, 1.5), parts=(4, 1, 2))
    z, y, x = acquisition.simulated_axes
    assert (len(z), len(y), len(x)) == (8, 3, 8)
    assert z[:2].tolist() == [-3 + 0.625, -3 + 1.875]
    assert acquisition.box == ((-3.0, 7.0), (0.0, 3.0), (1.0, 7.0))
    ramp = np.broadcast_to((z[:, None, None] + 10 * x).astype(np.float32), (8, 3, 8))
    averaged = acquisition.average(ramp)
    coarse = acquisition.axes(acquisition.shape)
    expected = np.broadcast_to(coarse[0][:, None, None] + 10 * coarse[2], (2, 3, 4))
    np.testing.assert_allclose(averaged, expected, rtol=1e-6)


def drawn(phantom, seed, *, thick_slices=0.0, cropped=0.0):
    rng = np.random.default_rng(seed)
    deformation = random_deformation(rng)
    acquisition = random_acquisition(rng, phantom[0], deformation, thick_slices=thick_slices, cropped=cropped)
    return deformation, acquisition


def brain_share(phantom, deformation, acquisition):
    """Return the share of the brain's volume inside the field of view."""
    head = phantom[0]
    wide = [np.arange(-120, 120, 5.0)] * 3
    seen = [axis[(axis > low) & (axis < high)] for axis, (low, high) in zip(wide, acquisition.box, strict=True)]
    inside = deformation.distance(head, seen)
    return (inside < 0).sum() / (deformation.distance(head, wide) < 0).sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_brain_is_seen_unless_it_is_cropped(phantom, seed):
    deformation, acquisition = drawn(phantom, seed)
    assert brain_share(phantom, deformation, acquisition) == 1
    assert max(acquisition.spacing) <= 2.0
    assert min(acquisition.spacing) >= 0.7
    assert all(length / part <= 1.25 for length, part in zip(acquisition.spacing, acquisition.parts, strict=True))


def test_cropped_and_thick(phantom):
    shares, axes = [], []
    for seed in range(10):
        deformation, acquisition = drawn(phantom, seed, thick_slices=1.0, cropped=1.0)
        shares.append(brain_share(phantom, deformation, acquisition))
        thick = [axis for axis in range(3) if acquisition.spacing[axis] >= 2.5]
        assert len(thick) == 1
        axes += thick
        assert all(length / part <= 1.25 for length, part in zip(acquisition.spacing, acquisition.parts, strict=True))
    assert set(axes) == {0, 1, 2}
    assert min(shares) < 0.8
    assert min(shares) > 0.05


def field(control, step=10.0, start=-20.0):
    return SmoothField(control=np.asarray(control, np.float32), start=(start,) * 3, step=(step,) * 3)


def test_a_constant_stays_constant():
    axes = [np.linspace(-20, 20, n) for n in (3, 5, 7)]
    values = field(np.full((7, 7, 7), 2.5)).on(axes)
    assert values.shape == (3, 5, 7)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, 2.5, rtol=1e-6)


def test_it_is_scipys_cubic_spline_along_every_axis():
    control = np.random.default_rng(0).normal(size=7)
    positions = np.linspace(-20, 19.9, 23)
    knots = -20 + 10.0 * np.arange(-3, 8)
    expected = BSpline(knots, control, 3)(positions)
    middle = np.array([0.0])
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 7
        axes = [middle, middle, middle]
        axes[axis] = positions
        values = field(np.broadcast_to(control.reshape(shape), (7, 7, 7))).on(axes)
        np.testing.assert_allclose(values.ravel(), expected, atol=1e-5)


def test_two_grids_see_one_function():
    made = random_field(np.random.default_rng(1), [(-50, 50)] * 3, 25.0, std=1.0)
    fine = made.on([np.arange(-40, 41, 5.0)] * 3)
    coarse = made.on([np.arange(-40, 41, 20.0)] * 3)
    np.testing.assert_allclose(fine[::4, ::4, ::4], coarse, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.floats(0.1, 20), step=st.floats(5, 200))
def test_a_limit_holds_everywhere_also_outside(seed, limit, step):
    made = random_field(np.random.default_rng(seed), [(-50, 30), (-60, 60), (0, 20)], step, std=10.0, limit=limit)
    values = made.on([np.linspace(-90, 90, 19)] * 3)
    assert np.abs(values).max() <= limit * (1 + 1e-5)


@pytest.mark.parametrize("std", [0.0, 3.0])
def test_the_spread_is_that_of_the_control_values(std):
    made = random_field(np.random.default_rng(2), [(-100, 100)] * 3, 10.0, std=std)
    assert made.control.std() == pytest.approx(std, rel=0.05)

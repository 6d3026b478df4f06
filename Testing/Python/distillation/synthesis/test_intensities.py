import numpy as np
import pytest

from distillation.synthesis.acquisition import Acquisition
from distillation.synthesis.intensities import (
    Contrast,
    blurred,
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

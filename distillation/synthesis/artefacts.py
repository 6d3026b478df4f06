"""What an acquisition does to intensities, one function each; images are (z, y, x) float32, at least 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from distillation.synthesis.contrast import SCALE
from distillation.synthesis.smooth_field import SmoothField, random_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.synthesis.acquisition import Acquisition

Image = npt.NDArray[np.float32]

_BLUR_MM = (0.2, 1.2)
_BIAS_STEP_MM = (70.0, 150.0)
_LARGEST_BIAS = 0.6
_GAMMA_STD = 0.3
_NOISE = (0.004, 0.08)
_WHITE_PERCENTILE = 99.0


def blurred(rng: np.random.Generator, image: Image, acquisition: Acquisition) -> Image:
    """Return the image blurred by a Gaussian of 0.2 to 1.2 mm, as the point spread function or small movements do."""
    sigma = rng.uniform(*_BLUR_MM)
    steps = [length / part for length, part in zip(acquisition.spacing, acquisition.parts, strict=True)]
    result: Image = ndimage.gaussian_filter(image, [sigma / step for step in steps], truncate=3.0)
    return result


def with_gamma(rng: np.random.Generator, image: Image) -> Image:
    """Return the image with its contrast bent, x ** exp(N(0, 0.3)) on a scale where the brightest percent is 1."""
    white = max(float(np.percentile(image[::2, ::2, ::2], _WHITE_PERCENTILE)), 1e-3)
    result: Image = white * (image / white) ** np.float32(np.exp(rng.normal(0, _GAMMA_STD)))
    return result


def with_bias(rng: np.random.Generator, image: Image, acquisition: Acquisition) -> Image:
    """Return the image times a smooth field, as the sensitivity of receiving coils does."""
    result: Image = image * np.exp(random_bias(rng, acquisition.box).on(acquisition.simulated_axes))
    return result


def random_bias(rng: np.random.Generator, box: Sequence[tuple[float, float]]) -> SmoothField:
    """Return the logarithm of a bias field (Billot et al. 2023).

    It is a spline with control points of a standard deviation of up to 0.6. They are 70 to 150 mm apart, before
    :func:`random_field` fits a whole number of intervals into the box.

    Args:
        rng: random numbers.
        box: where it is wanted: from and to in mm along z, y and x.
    """
    return random_field(
        rng, box, rng.uniform(*_BIAS_STEP_MM), std=rng.uniform(0, _LARGEST_BIAS), limit=3 * _LARGEST_BIAS
    )


def with_noise(rng: np.random.Generator, image: Image) -> Image:
    """Return the magnitude of the image and complex Gaussian noise: Rician, Rayleigh in air (Gudbjartsson, Patz 1995).

    The noise's standard deviation is 0.4 to 8 % of the full scale, small ones as often as large ones.
    """
    std = np.float32(SCALE * np.exp(rng.uniform(*np.log(_NOISE))))
    real = image + std * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = std * rng.standard_normal(image.shape, dtype=np.float32)
    result: Image = np.hypot(real, imaginary)
    return result

"""Intensities of made images: tissue contrasts, blur, gamma, bias fields and noise.

Contrasts are Gaussian mixtures with random parameters, as Billot et al. (2023). Images are (z, y, x) float32, at least
0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from distillation.synthesis.deformation import SmoothField, random_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.synthesis.acquisition import Acquisition
    from distillation.synthesis.head import LabelTable

SCALE = 255.0
"""Intensities of tissue lie between 0 and about this."""

_RANDOM_MEANS = (5.0, 250.0)
_RANDOM_STDS = (1.0, 30.0)
_TEXTURE_STEP_MM = (4.0, 12.0)
_LARGEST_TEXTURE_SHARE = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrast:
    """Mean and standard deviation of every intensity class.

    Attributes:
        means: (classes,) float32.
        stds: (classes,) float32.
    """

    means: npt.NDArray[np.float32]
    stds: npt.NDArray[np.float32]

    def paint(
        self, rng: np.random.Generator, classes: npt.NDArray[np.uint8], acquisition: Acquisition
    ) -> npt.NDArray[np.float32]:
        """Return the intensities of a map of classes, simulated grid, at least 0.

        Besides its own random part each voxel gets one that it shares with its neighbours, some millimetres wide:
        fat and muscle are one class in the label maps, and neither is salt and pepper.
        """
        share = rng.uniform(0, _LARGEST_TEXTURE_SHARE)
        shared = random_field(rng, acquisition.box, rng.uniform(*_TEXTURE_STEP_MM), std=1).on(
            acquisition.simulated_axes
        )
        shared *= share / max(float(shared.std()), np.finfo(np.float32).tiny)
        texture = rng.standard_normal(classes.shape, dtype=np.float32)
        texture *= np.sqrt(1 - share**2)
        texture += shared
        texture *= self.stds[classes]
        texture += self.means[classes]
        return np.maximum(texture, 0, out=texture)


def random_contrast(rng: np.random.Generator, table: LabelTable) -> Contrast:
    """Return any contrast: every class has a mean of its own, bright or dark; air is dark in half of them."""
    means = rng.uniform(*_RANDOM_MEANS, table.classes)
    stds = rng.uniform(*_RANDOM_STDS, table.classes)
    if rng.random() < 0.5:
        means[0], stds[0] = 0, 0
    return _contrast(means, stds)


def t1_contrast(rng: np.random.Generator, table: LabelTable) -> Contrast:
    """Return a contrast like that of a T1, drawn from the table's priors."""
    prior = table.prior
    means = rng.normal(prior[:, 0], prior[:, 1])
    stds = rng.normal(prior[:, 2], prior[:, 3])
    return _contrast(means, stds)


def _contrast(means: npt.NDArray[np.float64], stds: npt.NDArray[np.float64]) -> Contrast:
    return Contrast(means=np.maximum(means, 0).astype(np.float32), stds=np.abs(stds).astype(np.float32))


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

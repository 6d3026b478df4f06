"""What the scanner sees: intensities of made images, field of view, voxel size and thick slices.

Contrasts are Gaussian mixtures with random parameters, as Billot et al. (2023). Images are (z, y, x) float32, at least
0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from distillation.synthesis.deformation import REACH_MM, SmoothField, random_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.synthesis.deformation import Deformation
    from distillation.synthesis.label_maps import Head, LabelTable


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


Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""From and to along z, y and x, in mm from the brain's middle."""

_SURVEY_STEP_MM = 4.0
_USUAL_MM = (0.7, 1.4)
_THIRD_AXIS_MM = (0.7, 2.0)
_SLICE_MM = (2.5, 7.0)
_IN_PLANE_MM = (0.7, 1.2)
_SIMULATED_MM = 1.25
_NECK_MM = (5.0, 90.0)
_AIR_MM = (2.0, 40.0)
_LARGEST_CUT = 0.5
_FEWEST_VOXELS = 12


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """The grid of an image, and the finer one that it is simulated on.

    Attributes:
        start: (z, y, x) of the edge of the first voxel, in mm from the brain's middle.
        shape: voxels along z, y, x.
        spacing: of the voxels in mm.
        parts: simulated voxels that are averaged to one along z, y, x: a slice of 5 mm sees all of its thickness.
    """

    start: tuple[float, float, float]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    parts: tuple[int, int, int]

    @property
    def simulated_axes(self) -> list[npt.NDArray[np.float64]]:
        """Positions of the simulated planes along z, y, x in mm."""
        counts = [n * part for n, part in zip(self.shape, self.parts, strict=True)]
        return self.axes((counts[0], counts[1], counts[2]))

    @property
    def box(self) -> Box:
        """The field of view."""
        z, y, x = (
            (start, start + n * length) for start, n, length in zip(self.start, self.shape, self.spacing, strict=True)
        )
        return z, y, x

    def axes(self, shape: tuple[int, int, int]) -> list[npt.NDArray[np.float64]]:
        """Return the positions of the planes when the field of view is divided into so many voxels."""
        return [
            low + (np.arange(count) + 0.5) * (high - low) / count
            for (low, high), count in zip(self.box, shape, strict=True)
        ]

    def average(self, simulated: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the image of the simulated voxels: each voxel is the mean of its parts."""
        averaged = simulated
        for axis, part in enumerate(self.parts):
            if part > 1:
                split = (*averaged.shape[:axis], averaged.shape[axis] // part, part, *averaged.shape[axis + 1 :])
                averaged = averaged.reshape(split).mean(axis=axis + 1)
        return averaged


def random_acquisition(
    rng: np.random.Generator, head: Head, deformation: Deformation, *, thick_slices: float, cropped: float
) -> Acquisition:
    """Return a field of view round a deformed head, and voxels for it.

    It holds the head with 2 to 40 mm of air, and ends 5 to 90 mm below the brain: some necks are cut short, some not.

    Args:
        rng: random numbers.
        head: the label map.
        deformation: of the head.
        thick_slices: probability of slices of 2.5 to 7 mm, along any axis; otherwise voxels of 0.7 to 2 mm.
        cropped: probability of a field of view that one or two of its faces cut through the head, at most through the
            brain's middle.
    """
    brain, whole = _survey(head, deformation)
    box = [[low - rng.uniform(*_AIR_MM), high + rng.uniform(*_AIR_MM)] for low, high in whole]
    box[0][0] = max(box[0][0], brain[0][0] - rng.uniform(*_NECK_MM))
    if rng.random() < cropped:
        for face in rng.choice(6, size=rng.integers(1, 3), replace=False):
            axis, end = divmod(int(face), 2)
            other = brain[axis][1 - end]
            inwards = rng.uniform(-0.1, _LARGEST_CUT) * (other - brain[axis][end])
            box[axis][end] = brain[axis][end] + inwards
    spacing = _random_spacing(rng, thick_slices)
    parts = [math.ceil(length / _SIMULATED_MM) for length in spacing]
    shape = [
        max(_FEWEST_VOXELS, round((high - low) / length)) for (low, high), length in zip(box, spacing, strict=True)
    ]
    return Acquisition(
        start=(box[0][0], box[1][0], box[2][0]),
        shape=(shape[0], shape[1], shape[2]),
        spacing=(spacing[0], spacing[1], spacing[2]),
        parts=(parts[0], parts[1], parts[2]),
    )


def _random_spacing(rng: np.random.Generator, thick_slices: float) -> list[float]:
    if rng.random() < thick_slices:
        spacing = [rng.uniform(*_IN_PLANE_MM)] * 3
        spacing[rng.integers(3)] = rng.uniform(*_SLICE_MM)
        return spacing
    spacing = [rng.uniform(*_USUAL_MM)] * 3
    if rng.random() < 0.5:
        spacing[rng.integers(3)] = rng.uniform(*_THIRD_AXIS_MM)
    return spacing


def _survey(head: Head, deformation: Deformation) -> tuple[Box, Box]:
    """Return the boxes of the deformed brain and head."""
    axis = np.arange(-REACH_MM, REACH_MM + 1, _SURVEY_STEP_MM)
    axes = [axis, axis, axis]
    return _box(deformation.distance(head, axes) < 0, axis), _box(deformation.classes(head, axes) > 0, axis)


def _box(mask: npt.NDArray[np.bool_], axis: npt.NDArray[np.float64]) -> Box:
    ends = []
    for n in range(3):
        present = axis[mask.any(axis=tuple(other for other in range(3) if other != n))]
        ends.append((float(present[0]), float(present[-1])))
    return ends[0], ends[1], ends[2]

"""Intensities for tissue classes: a Gaussian mixture with random parameters (Billot et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from distillation.synthesis.smooth_field import random_field

if TYPE_CHECKING:
    from distillation.synthesis.acquisition import Acquisition
    from distillation.synthesis.label_table import LabelTable

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

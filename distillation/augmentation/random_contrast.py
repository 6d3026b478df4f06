"""Other sequences and scanners: intensities bent by a random curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distillation.augmentation.patch_transform import Image, Mask, PatchTransform, intensity_range

_PIECES = (3, 6)
_SLOPE_LOGARITHMS = (-2.5, 0.0)
_RISING_SHARE = 0.5

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Knots from 0 to 1, ascending, and the values at them."""


class RandomContrast(PatchTransform):
    """Maps intensities by a random piecewise-linear curve, the same one for every voxel.

    Half of the curves rise everywhere: other weightings of the same sequence. The others fall, as a T2 does where a T1
    rises, or turn once, so that grey matter may be brighter than both fluid and white matter, as in FLAIR. More turns
    would draw lines along every border, where voxels are part one tissue, part the other.
    """

    def changed(self, image: Image, inside: Mask, rng: np.random.Generator) -> Image:
        """Return the image bent by a random curve, (z, y, x)."""
        low, high = intensity_range(image[inside])
        if not high > low:
            return image
        knots, values = random_curve(rng)
        bent: Image = np.interp(image, low + (high - low) * knots, values).astype(np.float32)
        return bent


def random_curve(rng: np.random.Generator) -> Curve:
    """Return a random curve of 3 to 5 pieces that turns once at most; gentle slopes are as frequent as steep ones."""
    pieces = int(rng.integers(*_PIECES))
    widths = rng.uniform(0.5, 1.5, pieces)
    rises = widths * np.exp(rng.uniform(*_SLOPE_LOGARITHMS, size=pieces))
    if rng.random() >= _RISING_SHARE:
        turn = int(rng.integers(pieces))
        rises[turn:] *= -1  # all of them for 0
        rises *= rng.choice((-1, 1)) if turn else 1
    return np.concatenate([[0], np.cumsum(widths)]) / widths.sum(), np.concatenate([[0], np.cumsum(rises)])

"""Two label maps that agree as a good segmentation agrees with its reference, made up for timing what compares them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Labels = npt.NDArray[np.uint8]


def make_pair(shape: tuple[int, int, int], count: int, shift: float, seed: int = 0) -> tuple[Labels, Labels]:
    """Return two label maps, (z, y, x), whose boundaries are about ``shift / 2`` voxels apart."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(length, dtype=np.float32) for length in shape), indexing="ij"))

    def field(amplitude: float, width: float) -> npt.NDArray[np.float32]:
        smooth = gaussian_filter(random.standard_normal(shape).astype(np.float32), width)
        scaled: npt.NDArray[np.float32] = (amplitude / smooth.std() * smooth).astype(np.float32)
        return scaled

    def fields(amplitude: float, width: float) -> npt.NDArray[np.float32]:
        return np.stack([field(amplitude, width) for _ in shape])

    lengths = np.array(shape, dtype=np.float32)[:, None, None, None]
    radius = np.square((grid - (lengths - 1) / 2) / (0.42 * lengths)).sum(axis=0)
    centres = np.stack([random.uniform(0.2, 0.8, count) * length for length in shape], axis=1).astype(np.float32)

    def nearest_centre(places: npt.NDArray[np.float32], radius: npt.NDArray[np.float32]) -> Labels:
        labels = np.zeros(shape, dtype=np.uint8)
        best = np.full(shape, np.inf, dtype=np.float32)
        for value, centre in enumerate(centres, start=1):
            distance = np.square(places - centre[:, None, None, None]).sum(axis=0)
            closer = distance < best
            best[closer] = distance[closer]
            labels[closer] = value
        labels[radius > 1] = 0
        return labels

    places = grid + fields(4, 8)
    first = nearest_centre(places, radius)
    second = nearest_centre(places + fields(shift / 2, 3), radius * (1 + field(0.02, 3)))
    return first, second

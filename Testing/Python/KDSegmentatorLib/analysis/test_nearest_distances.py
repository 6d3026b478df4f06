from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from KDSegmentatorLib.analysis.surface_elements import nearest_distances, reach
from KDSegmentatorLib.geometry import Vector

SPACINGS: list[Vector] = [(1, 1, 1), (0.7, 0.7, 0.7), (3.0, 0.5, 0.5), (0.4, 5.0, 1.1), (1e-6, 1.0, 1e6)]


def distances(places: np.ndarray, targets: np.ndarray, spacing: Vector) -> np.ndarray:
    """Return the distances in a mask's order, with the border that the search needs."""
    border = [(voxels, voxels) for voxels in reach(spacing)]
    return nearest_distances(np.flatnonzero(np.pad(places, border)), np.pad(targets, border), spacing)


@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACINGS), st.sampled_from([0.002, 0.05, 0.5]))
def test_as_a_distance_transform(seed: int, spacing: Vector, share: float) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 13, size=3))
    places, targets = random.random(shape) < 0.3, random.random(shape) < share
    targets[tuple(random.integers(0, shape))] = True
    expected = distance_transform_edt(~targets, sampling=spacing)[places]
    np.testing.assert_allclose(distances(places, targets, spacing), expected, rtol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_target_at_every_distance(spacing: Vector) -> None:
    """Near ones are looked up, far ones are asked from the tree: none may fall between."""
    shape = (13, 13, 13)
    for index in np.ndindex(*shape):
        places, targets = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        places[6, 6, 6] = targets[index] = True
        expected = np.linalg.norm((np.array(index) - 6) * spacing)
        np.testing.assert_allclose(distances(places, targets, spacing), expected, rtol=1e-12)


def test_the_neighbourhood_stays_small_for_any_voxel() -> None:
    for spacing in [*SPACINGS, (1e-9, 1e-9, 1e9), (1e9, 1e9, 1e-9)]:
        assert max(reach(spacing)) <= 6

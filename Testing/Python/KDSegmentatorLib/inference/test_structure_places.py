from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from KDSegmentatorLib.geometry import Volume, matrix
from KDSegmentatorLib.inference.structure_places import LARGEST_TILT, displacements, structure_places

PLACES = np.random.default_rng(0).normal(0, 40, (20, 3))
NUMBERS = st.floats(-200, 200)


def rotation(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    return Rotation.from_rotvec(np.deg2rad(degrees) * np.array(axis) / np.linalg.norm(axis)).as_matrix()


def test_against_scipy_on_an_oblique_grid() -> None:
    labels = np.random.default_rng(1).integers(0, 5, (9, 8, 7)).astype(np.uint8)
    volume = Volume(labels, (1.0, 2.0, 3.0), (10.0, -20.0, 30.0), matrix(rotation(30, (1, 2, 3))))
    found = structure_places(volume, 5)
    assert np.isnan(found[[0, 5]]).all()
    centre = ndimage.center_of_mass(labels > 0)
    for value in range(1, 5):
        index = np.subtract(ndimage.center_of_mass(labels == value), centre)[::-1]
        np.testing.assert_allclose(found[value], volume.affine[:3, :3] @ index, atol=1e-9)


def test_larger_values_are_left_out() -> None:
    labels = np.zeros((3, 3, 6), np.uint8)
    labels[1, 1, [0, 2, 5]] = 1, 2, 9
    np.testing.assert_array_equal(structure_places(Volume(labels, (1.0, 1.0, 1.0)), 2)[1:], [[-1, 0, 0], [1, 0, 0]])


def test_nothing_is_nowhere() -> None:
    assert np.isnan(structure_places(Volume(np.zeros((3, 3, 3), np.uint8), (1.0, 1.0, 1.0)), 4)).all()


@given(
    st.floats(-LARGEST_TILT + 0.1, LARGEST_TILT - 0.1),
    st.tuples(NUMBERS, NUMBERS, NUMBERS).filter(lambda axis: np.linalg.norm(axis) > 1e-3),
    st.tuples(NUMBERS, NUMBERS, NUMBERS),
)
def test_a_tilt_and_a_shift_displace_nothing(
    degrees: float, axis: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    moved = PLACES @ rotation(degrees, axis).T + shift
    np.testing.assert_allclose(displacements(moved, PLACES), 0, atol=1e-9)


@pytest.mark.parametrize("degrees", [LARGEST_TILT + 1, 90, 180])
def test_a_larger_turn_is_not_undone(degrees: float) -> None:
    assert np.median(displacements(PLACES @ rotation(degrees, (1, 0, 0)).T, PLACES)) > 18


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_whole_is_displaced(axis: int) -> None:
    mirrored = PLACES * np.where(np.arange(3) == axis, -1, 1)
    assert np.median(displacements(mirrored, PLACES)) > 18


def test_one_that_moved_alone() -> None:
    moved = PLACES.copy()
    moved[7] += (0, 0, 30)
    found = displacements(moved, PLACES)
    assert found[7] == pytest.approx(30, abs=5)
    assert np.delete(found, 7).max() < 5


def test_a_single_structure_is_where_it_is() -> None:
    np.testing.assert_array_equal(displacements(np.array([[1.0, 2.0, 3.0]]), np.array([[9.0, 9.0, 9.0]])), [0.0])

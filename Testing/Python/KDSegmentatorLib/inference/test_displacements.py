from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from KDSegmentatorLib.inference.structure_measures import LARGEST_TILT, displacements

PLACES = np.random.default_rng(0).normal(0, 40, (20, 3))
NUMBERS = st.floats(-200, 200)


def rotation(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    return Rotation.from_rotvec(np.deg2rad(degrees) * np.array(axis) / np.linalg.norm(axis)).as_matrix()


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


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_structures_in_one_plane(flat: int) -> None:
    """The rotation is not unique then; a mirror image must not be taken for one."""
    places = PLACES * np.where(np.arange(3) == flat, 0, 1)
    np.testing.assert_allclose(displacements(places @ rotation(20, (1, 2, 3)).T, places), 0, atol=1e-9)


def test_a_single_structure_is_where_it_is() -> None:
    np.testing.assert_array_equal(displacements(np.array([[1.0, 2.0, 3.0]]), np.array([[9.0, 9.0, 9.0]])), [0.0])

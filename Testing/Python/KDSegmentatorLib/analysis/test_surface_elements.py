from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion

from KDSegmentatorLib.analysis.surface_elements import edge_voxels, outer_voxels, patch_areas, patches
from KDSegmentatorLib.geometry import Vector

SPACINGS: list[Vector] = [(1.0, 1.0, 1.0), (0.5, 1.3, 4.0), (5.0, 0.7, 0.7)]


def random_mask(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    mask = random.random(random.integers(1, 8, size=3)) < random.random()
    return np.pad(mask, 1)


@given(st.integers(0, 2**32 - 1))
def test_edges_are_what_erosion_takes_away(seed: int) -> None:
    mask = random_mask(seed)
    edges = edge_voxels(mask)
    np.testing.assert_array_equal(edges.present, mask ^ binary_erosion(mask))
    np.testing.assert_array_equal(edges.places, np.flatnonzero(edges.present))
    assert (edges.weights == 1).all() and edges.weights.size == edges.places.size


@given(st.integers(0, 2**32 - 1))
def test_outer_voxels_are_what_dilation_adds(seed: int) -> None:
    mask = random_mask(seed)
    np.testing.assert_array_equal(outer_voxels(mask), mask ^ binary_dilation(mask))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_are_those_of_monai_for_every_cell(spacing: Vector) -> None:
    torch = pytest.importorskip("torch", reason="needs torch, which MONAI does")
    utils = pytest.importorskip("monai.metrics.utils", reason="needs MONAI to compare with")
    table, kernel = utils.get_code_to_measure_table(spacing)
    areas = patch_areas(spacing)
    for code in range(256):
        inside = [bool(code >> bit & 1) for bit in range(8)]
        cell = torch.tensor(inside).reshape(2, 2, 2)
        expected = float(table[int((cell * kernel[0, 0]).sum())])
        assert areas[code] == pytest.approx(expected, rel=1e-6), np.array(inside).reshape(2, 2, 2)


def test_areas_by_hand() -> None:
    corners = list(product((0, 1), repeat=3))
    areas = patch_areas((2.0, 3.0, 4.0))
    assert areas[0] == areas[255] == 0
    lower = sum(1 << bit for bit, corner in enumerate(corners) if corner[0] == 0)
    assert areas[lower] == pytest.approx(3 * 4)  # a plane between two slices
    # one corner: the triangle between the middles of its edges
    triangle = np.linalg.norm(np.cross([-1, 1.5, 0], [-1, 0, 2])) / 2
    assert areas[1] == pytest.approx(triangle)
    for code in range(256):
        assert areas[code] == areas[255 - code]


def test_the_area_of_a_box() -> None:
    spacing = (2.0, 1.0, 0.5)
    box = np.zeros((20, 40, 80), dtype=bool)
    box[5:15, 10:30, 20:60] = True  # 20 x 20 x 20 mm, of which edges and corners are cut off
    area = patches(box, spacing).weights.sum()
    assert 6 * 19**2 < area < 6 * 20**2


@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACINGS))
def test_patches_lie_between_inside_and_outside(seed: int, spacing: Vector) -> None:
    mask = random_mask(seed)
    surface = patches(mask, spacing)
    cells = np.stack(
        [mask[z : z - 1 or None, y : y - 1 or None, x : x - 1 or None] for z, y, x in product((0, 1), repeat=3)]
    )
    mixed = cells.any(axis=0) & ~cells.all(axis=0)
    np.testing.assert_array_equal(surface.present[:-1, :-1, :-1], mixed)
    assert surface.present.sum() == mixed.sum() == surface.places.size
    assert (surface.weights > 0).all()

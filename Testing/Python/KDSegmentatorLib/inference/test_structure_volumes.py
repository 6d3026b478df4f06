from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.structure_measures import EDGE_SHARE, structure_volumes
from support.mrml_scene import TILTED, placed

SPACING = (0.5, 1.0, 4.0)


def with_box(low: tuple[int, int, int], high: tuple[int, int, int], codes: str = "LPS") -> Volume:
    """Return a volume of 12 x 12 x 12 voxels of 2 mm3 with label 2 in a box (z, y, x)."""
    voxels = np.zeros((12, 12, 12), np.uint8)
    voxels[tuple(slice(*each) for each in zip(low, high, strict=True))] = 2
    return placed(voxels, codes, TILTED, SPACING)


@pytest.mark.parametrize("codes", ["LPS", "ASR"])
def test_volumes_in_millilitres(codes: str) -> None:
    found = structure_volumes(with_box((2, 3, 4), (7, 8, 9), codes), 3)
    np.testing.assert_allclose(found.ml, [0, 0, 125 * 2 / 1000, 0])
    assert not found.at_edge.any()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("far", [False, True])
def test_each_of_the_six_edges(axis: int, far: bool) -> None:
    low, high = [3, 3, 3], [8, 8, 8]
    low[axis], high[axis] = (7, 12) if far else (0, 5)
    assert structure_volumes(with_box(tuple(low), tuple(high)), 2).at_edge.tolist() == [False, False, True]  # type: ignore[arg-type]


def test_a_stray_voxel_at_the_edge_cuts_nothing_off() -> None:
    voxels = np.zeros((30, 30, 30), np.uint8)
    voxels[5:25, 5:25, 5:25] = 1
    for count, at_edge in ((16, False), (17, True)):
        voxels[0, 10, 1 : 1 + count] = 1
        assert EDGE_SHARE * (8000 + count) == pytest.approx(16, abs=0.1)
        found = structure_volumes(Volume(voxels, (1.0,) * 3, (0.0,) * 3), 1)  # type: ignore[arg-type]
        assert bool(found.at_edge[1]) is at_edge


def test_larger_values_are_left_out() -> None:
    voxels = np.full((3, 3, 3), 300, np.uint16)
    voxels[1, 1, 1] = 1
    found = structure_volumes(placed(voxels, "LPS", TILTED, SPACING), 2)
    assert found.ml.tolist() == pytest.approx([0, 0.002, 0])
    assert not found.at_edge.any()


@given(st.integers(0, 2**31), st.sampled_from([np.uint8, np.uint16]))
def test_as_counted_label_by_label(seed: int, kind: type) -> None:
    random = np.random.default_rng(seed)
    voxels = random.integers(0, 6, size=random.integers(1, 9, size=3)).astype(kind)
    found = structure_volumes(placed(voxels, "LPS", TILTED, SPACING), 5)
    inner = np.zeros(voxels.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    for value in range(1, 6):
        mask = voxels == value
        assert found.ml[value] == pytest.approx(np.count_nonzero(mask) * 2 / 1000)
        assert bool(found.at_edge[value]) == bool((mask & ~inner).any())  # one of a few voxels is more than the share


@pytest.mark.parametrize("codes", ["LPS", "ASR", "RAI"])
def test_places_on_an_oblique_grid(codes: str) -> None:
    labels = np.random.default_rng(1).integers(0, 5, (9, 8, 7)).astype(np.uint8)
    volume = placed(labels, codes, TILTED, SPACING)
    found = structure_volumes(volume, 5).places
    assert np.isnan(found[[0, 5]]).all()
    centre = ndimage.center_of_mass(labels > 0)
    for value in range(1, 5):
        index = np.subtract(ndimage.center_of_mass(labels == value), centre)[::-1]
        np.testing.assert_allclose(found[value], volume.affine[:3, :3] @ index, atol=1e-9)


def test_larger_values_have_no_part_in_places() -> None:
    labels = np.zeros((3, 3, 6), np.uint8)
    labels[1, 1, [0, 2, 5]] = 1, 2, 9
    found = structure_volumes(Volume(labels, (1.0, 1.0, 1.0)), 2).places
    np.testing.assert_array_equal(found[1:], [[-1, 0, 0], [1, 0, 0]])


def test_nothing_is_nowhere() -> None:
    assert np.isnan(structure_volumes(Volume(np.zeros((3, 3, 3), np.uint8), (1.0, 1.0, 1.0)), 4).places).all()


def test_the_work_can_be_stopped_after_each_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("KDSegmentatorLib.geometry._SLAB_VOXELS", 200)
    voxels = np.random.default_rng(2).integers(0, 4, (9, 10, 10)).astype(np.uint8)
    calls: list[None] = []
    found = structure_volumes(Volume(voxels, (1.0, 1.0, 1.0)), 3, lambda: calls.append(None))
    assert len(calls) == 5
    np.testing.assert_allclose(found.ml[1:], np.bincount(voxels.ravel())[1:] / 1000)

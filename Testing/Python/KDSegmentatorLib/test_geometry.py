from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from KDSegmentatorLib import geometry
from KDSegmentatorLib.errors import CancelledError, GeometryError
from KDSegmentatorLib.geometry import (
    MAXIMUM_VOXELS,
    Matrix,
    Volume,
    check_placement,
    check_size,
    matrix,
    vector,
)

IDENTITY = matrix(np.eye(3))
ORDERS = [(axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((0, 1), repeat=3)]
CODES = [
    "".join(letters) for pairs in itertools.permutations(("LR", "PA", "SI")) for letters in itertools.product(*pairs)
]

rotations = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1).map(Rotation.from_quat)
spacings = st.tuples(*[st.floats(0.1, 10)] * 3)
origins = st.tuples(*[st.floats(-1000, 1000)] * 3)
codes = st.sampled_from(CODES)


def scan(
    rotation: Rotation, spacing: tuple[float, ...] = (0.7, 1.1, 3.0), origin: tuple[float, ...] = (9, -8, 70)
) -> Volume:
    """A volume whose voxels are all different."""
    voxels = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    return Volume(voxels, vector(spacing), vector(origin), matrix(rotation.as_matrix()))


def stored_otherwise(volume: Volume, axes: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """The same scan in another axis order: independent of Volume.reoriented, through an index matrix."""
    voxels = np.transpose(volume.voxels.T, axes)
    voxels = np.flip(voxels, [n for n in range(3) if flips[n]]).T
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, old in enumerate(axes):
        to_old[old, new] = -1 if flips[new] else 1
        to_old[old, 3] = volume.size[old] - 1 if flips[new] else 0
    affine = volume.affine @ to_old
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return Volume(voxels, vector(spacing), vector(affine[:3, 3]), matrix(affine[:3, :3] / spacing))


def places(volume: Volume) -> npt.NDArray[np.float64]:
    """World positions (L, P, S) of the voxels, ordered by the voxels' values."""
    k, j, i = np.indices(volume.voxels.shape).reshape(3, -1)
    world = volume.affine @ np.stack([i, j, k, np.ones_like(i)])
    result: npt.NDArray[np.float64] = world[:3, np.argsort(volume.voxels.ravel())].T
    return result


@given(rotations, spacings, origins, codes)
@settings(max_examples=150, deadline=None)
def test_reorienting_keeps_the_world_position_of_every_voxel(
    rotation: Rotation, spacing: Any, origin: Any, wanted: str
) -> None:
    volume = scan(rotation, spacing, origin)
    turned = volume.reoriented(wanted)
    assert turned.axis_codes == wanted
    np.testing.assert_allclose(places(turned), places(volume), atol=1e-9)


@given(rotations, codes, st.sampled_from(ORDERS))
@settings(max_examples=150, deadline=None)
def test_reorienting_there_and_back_is_exact(rotation: Rotation, wanted: str, order: Any) -> None:
    volume = stored_otherwise(scan(rotation), *order)
    back = volume.reoriented(wanted).reoriented(volume.axis_codes)
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    assert back.spacing == volume.spacing
    assert back.direction == volume.direction
    assert back.same_grid(volume)
    np.testing.assert_allclose(back.origin, volume.origin, atol=1e-9)


def assert_all_orders_agree(volume: Volume) -> None:
    reference = volume.reoriented("LPS")
    for axes, flips in ORDERS:
        turned = stored_otherwise(volume, axes, flips).reoriented("LPS")
        np.testing.assert_array_equal(turned.voxels, reference.voxels)
        assert turned.same_grid(reference)


@given(rotations)
@settings(max_examples=40, deadline=None)
def test_the_48_stored_orders_of_a_scan_reorient_to_the_same_array(rotation: Rotation) -> None:
    assert_all_orders_agree(scan(rotation))


@pytest.mark.parametrize(
    "angles",
    [
        *itertools.product((0, 45, 90, 135, -45), repeat=2),
        (54.735610317245346, 45),  # the body diagonal: three patient axes equally near
    ],
)
@pytest.mark.parametrize("axes", ["xy", "xz", "yz", "zx"])
def test_the_48_orders_agree_at_exact_ties(angles: tuple[float, float], axes: str) -> None:
    assert_all_orders_agree(scan(Rotation.from_euler(axes, angles, degrees=True)))


@pytest.mark.parametrize("axis", range(3))
def test_the_48_orders_agree_at_ties_stored_with_six_digits(axis: int) -> None:
    turn = np.round(Rotation.from_rotvec(np.eye(3)[axis] * math.pi / 4).as_matrix(), 6)
    volume = scan(Rotation.identity())
    assert_all_orders_agree(Volume(volume.voxels, volume.spacing, volume.origin, matrix(turn)))


def _has_a_clear_nearest_axis(direction: Matrix) -> bool:
    cosines = np.sort(np.abs(np.asarray(direction)), axis=0)
    nearest = {int(n) for n in np.abs(np.asarray(direction)).argmax(axis=0)}
    return bool((cosines[2] - cosines[1] > 0.01).all()) and len(nearest) == 3


@given(rotations, st.sampled_from(ORDERS))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_axis_codes_are_nibabels(rotation: Rotation, order: Any) -> None:
    nibabel = pytest.importorskip("nibabel", reason="pip install nibabel")
    volume = stored_otherwise(scan(rotation), *order)
    if _has_a_clear_nearest_axis(volume.direction):
        ras = np.diag([-1, -1, 1, 1]) @ volume.affine
        assert volume.axis_codes == "".join(nibabel.aff2axcodes(ras))


@given(rotations, st.sampled_from(ORDERS), codes)
@settings(max_examples=100, deadline=None)
def test_reorienting_agrees_with_simpleitk(rotation: Rotation, order: Any, wanted: str) -> None:
    import SimpleITK

    volume = stored_otherwise(scan(rotation), *order)
    if not _has_a_clear_nearest_axis(volume.direction):
        return
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.voxels))
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(np.ravel(volume.direction).tolist())
    expected = SimpleITK.DICOMOrient(image, wanted)
    turned = volume.reoriented(wanted)
    np.testing.assert_array_equal(turned.voxels, SimpleITK.GetArrayFromImage(expected))
    np.testing.assert_allclose(turned.spacing, expected.GetSpacing())
    np.testing.assert_allclose(turned.origin, expected.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(np.ravel(turned.direction), expected.GetDirection(), atol=1e-9)


def test_axis_codes_of_the_identity_are_lps() -> None:
    volume = scan(Rotation.identity())
    assert volume.axis_codes == "LPS"
    assert volume.reoriented("RAS").origin == vector((9 + 0.7 * 4, -8 + 1.1 * 3, 70))


@pytest.mark.parametrize("wrong", ["", "LP", "LPSS", "LRS", "LPX", "lps", "LLS", "LPSR"])
def test_wrong_axis_codes_are_named(wrong: str) -> None:
    with pytest.raises(GeometryError, match=f"'{wrong}'"):
        scan(Rotation.identity()).reoriented(wrong)


@pytest.mark.parametrize(
    ("spacing", "origin", "direction", "message"),
    [
        ((0.0, 1.0, 1.0), (0, 0, 0), IDENTITY, "spacing .* not positive"),
        ((1.0, -1.0, 1.0), (0, 0, 0), IDENTITY, "spacing .* not positive"),
        ((1.0, math.nan, 1.0), (0, 0, 0), IDENTITY, "spacing .* not finite"),
        ((1.0, 1.0, 1.0), (math.inf, 0, 0), IDENTITY, "origin .* not finite"),
        ((1.0, 1.0, 1.0), (0, 0, 0), matrix([math.nan, 0, 0, 0, 1, 0, 0, 0, 1]), "direction .* not finite"),
        ((1.0, 1.0, 1.0), (0, 0, 0), matrix([1, 0.1, 0, 0, 1, 0, 0, 0, 1]), "not orthonormal"),
        ((1.0, 1.0, 1.0), (0, 0, 0), matrix([2, 0, 0, 0, 1, 0, 0, 0, 1]), "not orthonormal"),
        ((1.0, 1.0, 1.0), (0, 0, 0), matrix(np.zeros(9)), "not orthonormal"),
    ],
)
def test_an_unusable_placement_is_named(spacing: Any, origin: Any, direction: Matrix, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        check_placement(spacing, origin, direction)
    with pytest.raises(GeometryError, match=message):
        Volume(np.zeros((2, 2, 2)), spacing, origin, direction)


def test_a_left_handed_direction_is_valid() -> None:
    check_placement((1, 1, 1), (0, 0, 0), matrix(np.diag([1, 1, -1])))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((4, 4), "three axes"),
        ((4, 4, 4, 2), "three axes"),
        ((4, 0, 4), "empty"),
        ((1 << 10, 1 << 10, (1 << 9) + 1), f"limit of {MAXIMUM_VOXELS:,}"),
    ],
)
def test_an_unusable_size_is_named(size: tuple[int, ...], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        check_size(size)


def test_the_largest_size_is_accepted() -> None:
    check_size((512, 512, 2048))


def test_other_voxels_must_fit_the_grid() -> None:
    volume = scan(Rotation.identity())
    assert volume.with_voxels(np.zeros((3, 4, 5), np.uint8)).same_grid(volume)
    with pytest.raises(GeometryError, match="do not fit"):
        volume.with_voxels(np.zeros((5, 4, 3), np.uint8))


def test_grids_differ_by_size_shift_and_turn() -> None:
    volume = scan(Rotation.identity())
    assert volume.same_grid(scan(Rotation.identity(), origin=(9 + 1e-5, -8, 70)))
    assert not volume.same_grid(scan(Rotation.identity(), origin=(9.01, -8, 70)))
    assert not volume.same_grid(scan(Rotation.from_rotvec([0, 0, 0.01])))
    assert not volume.same_grid(Volume(volume.voxels[1:], volume.spacing, volume.origin, volume.direction))


def test_the_voxel_volume_is_the_product_of_the_spacing() -> None:
    assert scan(Rotation.identity()).voxel_volume == pytest.approx(0.7 * 1.1 * 3.0)


def test_reorienting_a_large_volume_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_SLAB_VOXELS", 60)
    volume = Volume(np.arange(5 * 6 * 7).reshape(5, 6, 7), (1.0, 2.0, 3.0))
    checks: list[None] = []
    turned = volume.reoriented("SPL", lambda: checks.append(None))
    np.testing.assert_array_equal(turned.voxels, volume.voxels.transpose(2, 1, 0))
    assert turned.voxels.flags.c_contiguous
    assert len(checks) == 4

    def stop() -> None:
        raise CancelledError("cancelled; nothing was written")

    with pytest.raises(CancelledError):
        volume.reoriented("SPL", stop)
    assert np.shares_memory(volume.reoriented("LPS", stop).voxels, volume.voxels)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.zeros((2, 3, 4)), (1, 1)), r"the spacing must be three numbers, got \(1, 1\)"),
        ((np.zeros((2, 3, 4)), 1.0), "the spacing must be three numbers"),
        ((np.zeros((2, 3, 4)), None), "the spacing must be three numbers"),
        ((np.zeros((2, 3, 4)), (1, 1, "x")), "the spacing must be three numbers"),
        ((np.zeros((2, 3, 4)), (1, 1, 1), (0, 0)), "the origin must be three numbers"),
        ((np.zeros((2, 3, 4)), (1, 1, 1), (0, 0, 0), (1, 0, 0)), "the direction must be 3 x 3"),
        (([[[1]]], (1, 1, 1)), "voxels must be a numpy array .* got list"),
        (("scan.nii.gz", (1, 1, 1)), "got str"),
    ],
)
def test_a_volume_made_of_something_else_is_refused_with_what_to_give(arguments: Any, said: str) -> None:
    with pytest.raises(GeometryError, match=said):
        Volume(*arguments)


def test_a_volume_is_shown_in_one_line_without_its_voxels() -> None:
    shown = repr(Volume(np.zeros((5, 4, 3), np.int16), (1.5, 1.0, 2.0)))
    assert shown == "Volume(size=(3, 4, 5), dtype=int16, spacing=(1.5, 1.0, 2.0), axes='LPS')"

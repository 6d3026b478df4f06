"""Is a volume about as large as the images that a pack was trained on?"""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.errors import UnsuitableVolumeError
from KDSegmentatorLib.geometry import Vector, Volume, matrix
from KDSegmentatorLib.inference.plausibility import TIMES_LARGEST, TIMES_SMALLEST, check_field_of_view
from KDSegmentatorLib.packs.manifest import FieldOfView, Manifest
from KDSegmentatorLib.packs.store import PackStore
from support.generated_packs import manifest

CROPS = FieldOfView(smallest=(31.0, 40.0, 24.0), largest=(41.0, 59.0, 47.0))
HEADS = FieldOfView(smallest=(151.0, 181.0, 157.0), largest=(164.0, 215.0, 174.0))
ORDERS = ["".join(letters) for axes in permutations(("LR", "PA", "SI")) for letters in product(*axes)]
SPACING = (1.5, 2.0, 3.0)


def pack(field_of_view: FieldOfView | None = CROPS) -> Manifest:
    """Return the manifest of a pack in RAS."""
    return manifest(field_of_view=field_of_view)


def scan(right: float, anterior: float, superior: float) -> Volume:
    """Return a volume in RAS, of about this size in mm and nowhere zero."""
    lengths = (superior, anterior, right)
    shape = [max(1, round(length / step)) for length, step in zip(lengths, SPACING[::-1], strict=True)]
    return Volume(np.ones(shape, np.uint8), SPACING, direction=((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))


def verdict(volume: Volume, wanted: Manifest) -> str:
    """Return what is said; empty if the volume fits."""
    try:
        check_field_of_view(volume, wanted)
    except UnsuitableVolumeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "size", [(36, 50, 36), (45, 62, 45), (27, 38, 27), (31, 40, 24), (41, 59, 47), (24, 33, 24), (51, 72, 57)]
)
def test_crops_fit_the_pack_of_crops(size: tuple[float, float, float]) -> None:
    check_field_of_view(scan(*size), pack())


@pytest.mark.parametrize("size", [(54, 50, 36), (36, 76, 36), (36, 50, 63), (72, 100, 72)])
def test_wide_crops_are_refused(size: tuple[float, float, float]) -> None:
    assert "too large" in verdict(scan(*size), pack())


@pytest.mark.parametrize("size", [(160, 200, 165), (145, 181, 155), (192, 256, 210), (164, 215, 174)])
def test_heads_fit_the_pack_of_heads_and_not_that_of_crops(size: tuple[float, float, float]) -> None:
    check_field_of_view(scan(*size), pack(HEADS))
    assert "too large" in verdict(scan(*size), pack())


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_a_head_is_refused_whichever_half_of_whichever_head(axis: int, largest: bool) -> None:
    size = list(HEADS.largest if largest else HEADS.smallest)
    check_field_of_view(scan(*size), pack(HEADS))
    size[axis] /= 2
    assert "too small" in verdict(scan(*size), pack(HEADS))


def test_the_message_has_the_numbers_and_the_remedy() -> None:
    assert verdict(scan(180, 240, 240), pack()) == (
        "the volume is too large (180 mm left to right, 240 mm front to back, 240 mm head to foot) for the pack, which "
        "was trained on images of 31 to 41 mm left to right, 40 to 59 mm front to back, 24 to 47 mm head to foot. Crop "
        "it to about that size, round the structures. If it is right, allow it with --unchecked (check_input=False)"
    )


def test_too_large_and_too_small_at_once() -> None:
    said = verdict(scan(180, 50, 9), pack())
    assert "too large (180 mm left to right) and too small (9 mm head to foot) for the pack" in said
    assert "Crop it" in said and "Give a scan that shows as much." in said


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_limits_are_where_the_manual_says(axis: int) -> None:
    """Twice the largest and two thirds of the smallest, along each axis, are still accepted."""
    exact = FieldOfView(smallest=(45.0, 60.0, 90.0), largest=(60.0, 80.0, 120.0))  # of whole voxels
    for limits, factor, beyond in ((exact.largest, TIMES_LARGEST, 1), (exact.smallest, TIMES_SMALLEST, -1)):
        voxels = [round(length / step) for length, step in zip(exact.largest, SPACING, strict=True)]
        voxels[axis] = round(factor * limits[axis] / SPACING[axis])
        for more, fits in ((0, True), (beyond, False)):
            shape = [*voxels]
            shape[axis] += more
            volume = scan(*(count * step for count, step in zip(shape, SPACING, strict=True)))
            assert (verdict(volume, pack(exact)) == "") == fits


def test_zeros_round_a_volume_do_not_make_it_too_large() -> None:
    """They are cropped before the network sees the volume."""
    wide = scan(240, 240, 240)
    box = (slice(30, 45), slice(50, 75), slice(70, 96))
    voxels = np.zeros_like(wide.voxels)
    voxels[box] = 1
    check_field_of_view(wide.with_voxels(voxels), pack())
    voxels[box[0], box[1]] = 1
    said = verdict(wide.with_voxels(voxels), pack())
    assert "too large (240 mm left to right, without the zeros round it)" in said


def test_zeros_round_the_brain_do_not_make_a_head_too_small() -> None:
    head = scan(160, 200, 165)
    voxels = np.zeros_like(head.voxels)
    voxels[10:40, 20:80, 20:80] = 1
    check_field_of_view(head.with_voxels(voxels), pack(HEADS))


@pytest.mark.parametrize(("complete", "fits"), [(True, True), (False, False)])
def test_a_ct_that_is_cropped_to_a_patient_shown_completely_is_not_too_small(complete: bool, fits: bool) -> None:
    """A neck of 160 mm in a box of 250 mm, where the training images have 500 mm."""
    trained = FieldOfView(smallest=(500.0, 500.0, 300.0), largest=(600.0, 600.0, 400.0))
    ct = manifest(field_of_view=trained, modality="CT")
    volume = scan(250, 250, 320)
    _, y, x = np.ogrid[: volume.size[2], : volume.size[1], : volume.size[0]]
    radius = 80 if complete else 200
    centre = [length / 2 for length in volume.extent("RAS")]
    body = (x * SPACING[0] - centre[0]) ** 2 + (y * SPACING[1] - centre[1]) ** 2 < radius**2
    voxels = np.where(body & np.ones(volume.voxels.shape, bool), 40, -1000).astype(np.int16)
    said = verdict(volume.with_voxels(voxels), ct)
    assert (said == "") == fits, said
    assert "too small" in verdict(volume.with_voxels(voxels), manifest(field_of_view=trained)), "in MR air is no number"


def test_half_a_patient_in_ct_is_refused() -> None:
    trained = FieldOfView(smallest=(500.0, 500.0, 300.0), largest=(600.0, 600.0, 400.0))
    ct = manifest(field_of_view=trained, modality="CT")
    volume = scan(250, 500, 320)
    voxels = np.full(volume.voxels.shape, 40, np.int16)
    voxels[:, :, -20:] = -1000  # air on one side, the patient goes on at the other
    assert "too small (250 mm left to right)" in verdict(volume.with_voxels(voxels), ct)


def test_a_pack_of_an_earlier_version_takes_everything() -> None:
    for size in ((3, 4, 3), (400, 400, 900)):
        check_field_of_view(scan(*size), pack(None))


@given(
    lengths=st.tuples(*[st.sampled_from([10.0, 20.0, 35.0, 60.0, 120.0, 160.0, 300.0])] * 3),
    field_of_view=st.sampled_from([CROPS, HEADS]),
    turn=st.tuples(*[st.floats(-180.0, 180.0)] * 3),
    filled=st.tuples(*[st.floats(0.1, 1.0)] * 3),
)
def test_the_48_orders_of_a_scan_get_the_same_verdict(
    lengths: Vector, field_of_view: FieldOfView, turn: Vector, filled: Vector
) -> None:
    """Also of an oblique one, and with zeros at its far side."""
    straight = scan(*lengths)
    voxels = np.zeros_like(straight.voxels)
    box = [slice(0, max(1, round(n * part))) for n, part in zip(voxels.shape, filled, strict=True)]
    voxels[tuple(box)] = 1
    direction = matrix(Rotation.from_euler("xyz", turn, degrees=True).as_matrix())
    volume = Volume(voxels, straight.spacing, (5.0, -7.0, 11.0), direction)
    wanted = pack(field_of_view)
    expected = verdict(volume, wanted)
    for codes in ORDERS:
        assert verdict(volume.reoriented(codes), wanted) == expected, codes


def test_the_packs_axis_order_says_which_length_is_which() -> None:
    """The same training images, told in another order, give the same verdict; an order that is mixed up another one."""
    slab = scan(72, 100, 20)
    base = pack(FieldOfView(smallest=(40.0, 60.0, 18.0), largest=(60.0, 90.0, 30.0)))
    assert verdict(slab, base) == ""
    for codes in ORDERS:
        places = ["RL".find, "AP".find, "SI".find]
        order = [next(n for n, find in enumerate(places) if find(code) >= 0) for code in codes]
        told = FieldOfView(
            smallest=tuple(base.field_of_view.smallest[n] for n in order),  # type: ignore[union-attr, arg-type]
            largest=tuple(base.field_of_view.largest[n] for n in order),  # type: ignore[union-attr, arg-type]
        )
        assert verdict(slab, with_codes(told, codes)) == "", codes
    assert "head to foot" in verdict(slab, with_codes(base.field_of_view, "SAR"))


def with_codes(field_of_view: FieldOfView | None, codes: str) -> Manifest:
    """Return the manifest of a pack in other axis codes."""
    from dataclasses import replace

    base = pack(field_of_view)
    return replace(base, preprocessing=replace(base.preprocessing, axis_codes=codes))


@pytest.mark.parametrize("size", ["x1", "x1_2", "x1_4"])
def test_the_shipped_hippocampus_packs_refuse_a_whole_head(size: str) -> None:
    shipped = PackStore(user_folder=Path("nowhere")).get(f"hippocampus-{size}")
    wanted = shipped.manifest
    assert wanted.field_of_view is not None
    check_field_of_view(scan(36, 50, 36), wanted)
    assert "too large" in verdict(scan(180, 240, 240), wanted)

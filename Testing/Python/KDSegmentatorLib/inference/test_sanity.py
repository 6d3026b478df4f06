from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from KDSegmentatorLib.geometry import Volume, vector
from KDSegmentatorLib.inference.sanity import judge
from KDSegmentatorLib.inference.segmentation import ResultWarning, input_warning
from KDSegmentatorLib.inference.structure_measures import structure_volumes
from KDSegmentatorLib.packs.manifest import (
    Evaluation,
    Expected,
    ExpectedLabel,
    ExpectedPair,
    Interval,
    LabelScore,
    Manifest,
)
from support.generated_packs import manifest

LEFT, RIGHT, RARE = 1, 2, 3
EXPECTED = Expected(
    cases=40,
    smallest_ml=1.8,
    largest_ml=2.6,
    labels=(
        ExpectedLabel(value=LEFT, cases=40, at_edge=0, smallest_ml=0.9, largest_ml=1.1),
        ExpectedLabel(value=RIGHT, cases=40, at_edge=30, smallest_ml=0.9, largest_ml=1.1),
        ExpectedLabel(value=RARE, cases=10, at_edge=0, smallest_ml=0.1, largest_ml=0.4),
    ),
    pairs=(ExpectedPair(left=LEFT, right=RIGHT, largest_difference=0.1),),
)
PACK = manifest(expected=EXPECTED)
CORNERS = {LEFT: (2, 2, 2), RIGHT: (2, 2, 22), RARE: (2, 22, 2)}


def result(*, cut: tuple[int, ...] = (), **ml: float) -> Volume:
    """Return labels in voxels of 1 mm3, one block each, which ``cut`` ones begin in the first slice."""
    voxels = np.zeros((44, 44, 44), np.uint8)
    for value, (z, y, x) in CORNERS.items():
        count = round(1000 * ml.get(f"s{value}", 0))
        block = np.zeros((40, 16, 16), np.uint8)
        block.reshape(-1)[:count] = value
        start = 0 if value in cut else z
        voxels[start : start + 40, y : y + 16, x : x + 16] = block
    return Volume(voxels, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def scored(**dice: float) -> Evaluation:
    """Return an evaluation with these mean Dice values: ``s1=0.9``."""
    intervals = {int(name[1:]): Interval(mean=mean, low=mean, high=mean) for name, mean in dice.items()}
    return Evaluation(
        dataset="generated",
        split="held out",
        cases=6,
        mirroring=False,
        mean_dice=Interval(mean=0.8, low=0.8, high=0.8),
        labels=tuple(LabelScore(value=value, dice=interval) for value, interval in intervals.items()),
        teacher_mean_dice=None,
    )


def warnings(volume: Volume, pack: Manifest = PACK, *wanted: int) -> tuple[ResultWarning, ...]:
    labels = tuple(label for label in pack.labels if not wanted or label.value in wanted)
    return judge(volume, labels, pack)


def kinds(volume: Volume, pack: Manifest = PACK, *wanted: int) -> list[tuple[str, tuple[str, ...]]]:
    return [(warning.kind, warning.labels) for warning in warnings(volume, pack, *wanted)]


@pytest.mark.parametrize(
    "ml",
    [{"s1": 1.0, "s2": 1.0}, {"s1": 0.9, "s2": 1.1, "s3": 0.4}, {"s1": 0.8, "s2": 0.75}, {"s1": 1.5, "s2": 1.5}],
)
def test_most_results_are_not_odd(ml: dict[str, float]) -> None:
    assert warnings(result(**ml)) == ()


def test_sizes_far_outside_of_the_training_set() -> None:
    (small,) = warnings(result(s1=0.9, s2=0.95, s3=0.04))
    assert small == ResultWarning(
        kind="small",
        pack_id="generated-x1_4",
        labels=("structure 3",),
        found=pytest.approx(0.04),  # type: ignore[arg-type]
        expected=(0.1, 0.4),
        sentence="structure 3 is smaller than expected: 0.04 ml, in the training set 0.1 to 0.4 ml. Check the result.",
    )
    (large,) = warnings(result(s1=0.9, s2=0.95, s3=0.61))
    assert (large.kind, large.found, large.expected) == ("large", pytest.approx(0.61), (0.1, 0.4))
    assert "structure 3 is larger than expected: 0.61 ml" in large.sentence


def test_thick_slices_are_one_warning_that_names_them_and_all_that_they_explain() -> None:
    thin = result(s1=0.4, s2=0.4, s3=0.01)
    trained = PACK.preprocessing.spacing[0]
    thick = Volume(thin.voxels, (1.0, 1.0, 2.6 * trained))
    first, *others = warnings(thick)
    assert (first.kind, first.found, first.expected) == ("thick slices", pytest.approx(2.6 * trained), (0.0, trained))
    assert f"slices are {2.6 * trained:.3g} mm apart, and the pack was trained on {trained:.3g} mm" in first.sentence
    assert "structure 3" in first.labels
    assert {warning.kind for warning in others} <= {"cut off", "implausible"}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_may_be_thick_along_any_axis_and_a_little_thicker_than_trained(axis: int) -> None:
    labels = result(s1=1.0, s2=1.0)
    for times, said in ((1.5, False), (2.5, True)):
        spacing = [1.0, 1.0, 1.0]
        spacing[axis] = times * max(PACK.preprocessing.spacing)
        found = warnings(Volume(labels.voxels, vector(spacing)))
        assert ("thick slices" in [warning.kind for warning in found]) == said


def oddities(odd: int, count: int) -> tuple[Volume, Manifest]:
    """Return a result of ``count`` structures, the first of which are odd: half missing, the others far too small."""
    values = range(1, count + 1)
    known = tuple(ExpectedLabel(value=v, cases=40, at_edge=0, smallest_ml=0.9, largest_ml=1.1) for v in values)
    pack = manifest(count, expected=Expected(cases=40, smallest_ml=0.1, largest_ml=9.0, labels=known, pairs=()))
    voxels = np.zeros((8 * count + 12, 44, 44), np.uint8)
    for value in values:
        block = np.zeros(7 * 40 * 40, np.uint8)
        block[: 1000 if value > odd else 100 if value > odd // 2 else 0] = value
        voxels[8 * value : 8 * value + 7, 2:42, 2:42] = block.reshape(7, 40, 40)
    return Volume(voxels, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), pack


@pytest.mark.parametrize(
    ("odd", "count", "implausible"),
    [(2, 6, False), (3, 6, True), (6, 6, True), (4, 20, False), (5, 20, True), (5, 5, False)],
)
def test_a_result_that_is_odd_in_many_structures(odd: int, count: int, implausible: bool) -> None:
    volume, pack = oddities(odd, count)
    found = judge(volume, pack.labels, pack)
    assert [warning.kind for warning in found].count("implausible") == implausible
    if implausible:
        assert found[0].kind == "implausible"
        assert f"{odd} of {count} structures" in found[0].sentence
        assert "orientation" in found[0].sentence


def striped(brightness: list[float]) -> tuple[Volume, Volume]:
    """Return labels 1, 2, ... in slices of 10 x 10 voxels of 1 mm3, and an image with these intensities in them."""
    labels = np.zeros((len(brightness) + 2, 12, 12), np.uint8)
    image = np.zeros(labels.shape, np.float32)
    for value, bright in enumerate(brightness, 1):
        labels[value, 1:11, 1:11] = value
        image[value, 1:11, 1:11] = bright
    return (Volume(voxels, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)) for voxels in (labels, image))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("brightness", "warns"),
    [
        ([10.0, 20.0, 30.0, 40.0, 50.0, 60.0], False),
        ([310.0, 330.0, 320.0, 350.0, 340.0, 360.0], False),
        ([60.0, 50.0, 40.0, 30.0, 20.0, 10.0], True),
        ([40.0, 10.0, 60.0, 20.0, 50.0, 30.0], True),
        ([7.0] * 6, True),
        ([0.1] * 6, True),
    ],
)
def test_another_contrast_than_that_of_the_training_images(brightness: list[float], warns: bool) -> None:
    known = tuple(
        ExpectedLabel(value=v, cases=9, at_edge=0, smallest_ml=0.09, largest_ml=0.11, intensity=(v - 3.5) / 1.7)
        for v in range(1, 7)
    )
    pack = manifest(6, expected=Expected(cases=9, smallest_ml=0.1, largest_ml=9.0, labels=known, pairs=()))
    segmentation, image = striped(brightness)
    found = judge(segmentation, pack.labels, pack, image)
    assert [warning.kind for warning in found] == ["contrast"] * warns
    if warns:
        assert "another sequence" in found[0].sentence
        json.dumps(asdict(found[0]), allow_nan=False)  # as jobs keep it
        equal = len(set(brightness)) == 1
        assert (found[0].found is None) == equal
        assert ("equally bright" in found[0].sentence) == equal
        assert "nan" not in found[0].sentence
    assert judge(segmentation, pack.labels[:1], pack, image) == found, "the others are looked at, too"
    without = segmentation.with_voxels(np.where(segmentation.voxels == 6, 0, segmentation.voxels).astype(np.uint8))
    assert judge(without, pack.labels[:5], pack, image) == (), "five structures are too few"
    assert judge(segmentation, pack.labels, pack) == ()


Places = list[tuple[int, int, int]]
BOX: Places = [(8, 8, 8), (30, 8, 8), (8, 34, 8), (30, 34, 8), (8, 8, 26), (30, 8, 26), (8, 34, 26), (30, 34, 26)]


def placed(places: Places, displacement: float = 6.0) -> tuple[Volume, Manifest]:
    """Return labels 1, 2, ... in cubes of 8 voxels of 8 mm3 at these (x, y, z), and a pack that expects them so."""
    voxels = np.zeros((48, 48, 48), np.uint8)
    for value, (x, y, z) in enumerate(places, 1):
        voxels[z : z + 2, y : y + 2, x : x + 2] = value
    known = tuple(
        ExpectedLabel(
            value=value,
            cases=9,
            at_edge=1,
            smallest_ml=0.05,
            largest_ml=0.07,
            place=vector(2.0 * np.subtract(place, np.mean(places, axis=0))),
            displacement=displacement,
        )
        for value, place in enumerate(places, 1)
    )
    expected = Expected(cases=9, smallest_ml=0.3, largest_ml=0.6, labels=known, pairs=())
    return Volume(voxels, (2.0, 2.0, 2.0), (9.0, 8.0, 7.0)), manifest(len(places), expected=expected)


def test_a_structure_far_from_its_place() -> None:
    _, pack = placed(BOX)
    moved = placed([*BOX[:7], (30, 34, 40)])[0]  # the last one by 28 mm, of which the others' fit takes a part
    (found,) = judge(moved, pack.labels, pack)
    assert (found.kind, found.labels, found.expected) == ("displaced", ("structure 8",), (0.0, 6.0))
    assert found.found == pytest.approx(24, abs=3)
    assert found.sentence == (
        f"structure 8 is {found.found:.0f} mm from where it would be among the other structures (in the training set "
        "at most 6 mm). Check the result."
    )
    assert judge(placed([*BOX[:7], (30, 34, 34)])[0], pack.labels, pack) == (), "16 mm at most"
    wide = placed(BOX, displacement=16.0)[1]
    assert judge(moved, wide.labels, wide) == ()
    assert judge(moved, pack.labels[7:], pack) == (found,), "the others are looked at, too"
    assert judge(moved, pack.labels[:7], pack) == (), "it was not chosen"
    never = replace(pack, evaluation=scored(s8=0.0, s1=0.9))
    assert judge(moved, never.labels, never) == (), "the pack does not find it anyway"


def test_what_few_training_cases_have_is_nowhere_in_particular() -> None:
    _, pack = placed(BOX)
    assert pack.expected is not None
    rare = tuple(replace(label, cases=4 if label.value == 8 else 9) for label in pack.expected.labels)
    rarely = replace(pack, expected=replace(pack.expected, labels=rare))
    assert judge(placed([*BOX[:7], (30, 34, 40)])[0], rarely.labels, rarely) == ()


def test_neither_where_the_patient_lay_nor_what_is_missing_displaces_anything() -> None:
    volume, pack = placed(BOX)
    shifted = placed([(x + 10, y + 6, z + 12) for x, y, z in BOX])[0]
    assert judge(shifted, pack.labels, pack) == ()
    part = volume.with_voxels(np.where(volume.voxels > 6, 0, volume.voxels))
    assert [each.kind for each in judge(part, pack.labels, pack)] == ["missing"]


def test_what_is_cut_off_is_not_displaced() -> None:
    """Structure 9 is long: where the scan ends at a third of it, its centroid is 56 mm off."""
    volume, pack = placed([*BOX, (20, 20, 10)])
    voxels = np.pad(volume.voxels, ((0, 42), (0, 0), (0, 0)))
    voxels[10:86, 20:22, 20:22] = 9
    whole = Volume(voxels, volume.spacing)
    places = structure_volumes(whole, 9).places
    assert pack.expected is not None
    known = tuple(replace(each, place=vector(places[each.value]), largest_ml=3.0) for each in pack.expected.labels)
    pack = replace(pack, expected=replace(pack.expected, largest_ml=9.0, labels=known))
    assert judge(whole, pack.labels, pack) == ()
    cut = voxels[:30]
    assert judge(Volume(cut, volume.spacing), pack.labels, pack) == ()
    padded = np.pad(cut, ((0, 1), (0, 0), (0, 0)))  # not at the edge any more
    (found,) = judge(Volume(padded, volume.spacing), pack.labels, pack)
    assert (found.kind, found.labels) == ("displaced", ("structure 9",))


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_a_volume_that_lies_otherwise_than_its_header_says(axes: tuple[int, ...]) -> None:
    volume, pack = placed(BOX)
    turned = volume.with_voxels(np.ascontiguousarray(np.flip(volume.voxels, axes)))
    warnings = judge(turned, pack.labels, pack)
    assert [each.kind for each in warnings] == ["implausible", "displaced"]
    assert "8 of 8 structures are missing, or far from their size or place" in warnings[0].sentence
    assert warnings[1].sentence.endswith(
        ", and 3 more structures. Check the result, and that the orientation of the volume is right."
    )
    assert warnings[1].sentence.count(" mm") == 6


def test_all_structures_together() -> None:
    for left, right in ((0.77, 0.77), (1.5, 1.6)):  # 0.85 x 1.8 = 1.53 and 1.2 x 2.6 = 3.12
        assert warnings(result(s1=left, s2=right)) == ()
    (found,) = warnings(result(s1=0.55, s2=0.5))
    assert (found.kind, found.labels, found.found) == ("small", (), pytest.approx(1.05))
    assert found.sentence == (
        "All structures together are smaller than expected: 1.05 ml together, in the training set 1.8 to 2.6 ml. "
        "Check the result."
    )
    assert kinds(result(s1=0.75, s2=0.75)) == [("small", ())]
    assert kinds(result(s1=1.6, s2=1.6)) == [("large", ())]


def test_a_structure_that_usually_is_whole_is_cut_off_at_the_edge_whatever_its_size() -> None:
    (found,) = warnings(result(s1=1.0, s2=1.0, cut=(LEFT,)))
    assert (found.kind, found.labels) == ("cut off", ("structure 1",))
    assert found.sentence.startswith("structure 1 is cut off at the edge of the volume: 1 ml")
    assert kinds(result(s1=1.0, s2=1.0, cut=(RIGHT,))) == [], "it often ends there"
    assert kinds(result(s1=0.9, s2=0.44, s3=0.3, cut=(RIGHT,))) == [("cut off", ("structure 2",))]
    assert kinds(result(s1=1.0, s2=1.7, cut=(RIGHT,)))[0] == ("large", ("structure 2",))


def test_too_little_of_all_is_not_called_cut_off_for_what_often_ends_at_the_edge() -> None:
    """Structure 2 ends at the edge of 30 of 40 training cases, structure 1 of none."""
    assert kinds(result(s1=0.55, s2=0.5, cut=(RIGHT,))) == [("small", ())]
    found = warnings(result(s1=0.55, s2=0.5, cut=(LEFT,)))
    assert [(each.kind, each.labels) for each in found] == [("cut off", ()), ("cut off", ("structure 1",))]
    assert found[0].sentence.startswith("Structures are cut off at the edge of the volume: 1.05 ml together")


def test_too_little_of_all_is_not_said_where_what_is_missing_explains_it() -> None:
    """As with parotids and mandible not found in a head-and-neck CT: the rest is as large as it should be."""
    assert kinds(result(s2=1.0, s3=0.1, cut=(RIGHT,))) == [("missing", ("structure 1",))]
    assert kinds(result(s2=1.0, s3=0.1)) == [("missing", ("structure 1",))]
    assert kinds(result(s2=0.4)) == [("missing", ("structure 1",)), ("small", ()), ("small", ("structure 2",))]
    assert kinds(result(s2=4.0)) == [("missing", ("structure 1",)), ("large", ()), ("large", ("structure 2",))]


def test_what_is_missing_explains_no_more_than_its_largest_volume() -> None:
    """Structure 3 has 0.4 ml at most; the sum of the others is 0.43 or 0.33 ml less than 1.53."""
    labels = (*EXPECTED.labels[:2], replace(EXPECTED.labels[2], cases=40))
    pack = manifest(expected=replace(EXPECTED, labels=labels))
    missing = ("missing", ("structure 3",))
    assert kinds(result(s1=0.55, s2=0.55), pack) == [missing, ("small", ())]
    assert kinds(result(s1=0.6, s2=0.6), pack) == [missing]
    never = replace(pack, evaluation=scored(s3=0.0))
    assert kinds(result(s1=0.55, s2=0.55), never) == [("small", ())]
    assert kinds(result(s1=0.6, s2=0.6), never) == []


@pytest.mark.parametrize("value", [LEFT, RIGHT])
def test_a_remnant_at_the_edge_is_small_and_not_cut_off(value: int) -> None:
    """From 0.05 of the smallest volume, 0.9 ml, on it is."""
    name, other = f"structure {value}", RIGHT if value == LEFT else LEFT
    for ml, kind in ((0.001, "small"), (0.044, "small"), (0.046, "cut off"), (0.4, "cut off")):
        found = [each for each in warnings(result(cut=(value,), **{f"s{value}": ml, f"s{other}": 1.1})) if each.labels]
        assert [(each.kind, each.labels) for each in found] == [(kind, (name,))], ml
    (found,) = warnings(result(s1=0.001, s2=1.1, cut=(LEFT,)), PACK, LEFT)
    assert found.sentence.startswith("structure 1 is smaller than expected: 0.001 ml, in the training set 0.9 to 1.1")


def test_a_stray_voxel_at_the_edge_does_not_make_the_sum_cut_off() -> None:
    assert kinds(result(s1=0.001, s2=1.1, cut=(LEFT,))) == [("small", ()), ("small", ("structure 1",))]


def test_left_and_right() -> None:
    """1.5 times the largest difference of the training set, 0.1, and 0.3 more: 0.45."""
    assert kinds(result(s1=1.0, s2=0.64)) == []
    (found,) = warnings(result(s1=1.0, s2=0.625))
    assert (found.kind, found.labels) == ("asymmetric", ("structure 1", "structure 2"))
    assert found.found == pytest.approx(0.375 / 0.8125)
    assert found.expected == (0.0, 0.1)
    assert "structure 1 1 ml, structure 2 0.625 ml. They differ by 46% of their mean" in found.sentence
    (cut,) = warnings(result(s1=1.0, s2=0.625, cut=(RIGHT,)))
    assert cut.kind == "cut off"
    assert cut.sentence.startswith("structure 2 is cut off at the edge of the volume: structure 1 1 ml")
    assert kinds(result(s1=1.1, s2=0.4, s3=0.3)) == [("small", ("structure 2",))], "said once"


def test_missing_structures_are_those_that_almost_every_case_has() -> None:
    assert kinds(result(s2=1.3)) == [("missing", ("structure 1",))]
    assert "Not found: structure 1, which (almost) every training case has." in warnings(result(s2=1.3))[0].sentence
    labels = (replace(EXPECTED.labels[0], cases=37), *EXPECTED.labels[1:])
    assert kinds(result(s2=1.6), manifest(expected=replace(EXPECTED, labels=labels))) == []


@pytest.mark.parametrize(("dice", "warns"), [(0.0, False), (0.049, False), (0.05, True), (0.9, True)])
def test_what_the_pack_did_not_find_in_its_own_evaluation_is_not_missing(dice: float, warns: bool) -> None:
    pack = replace(PACK, evaluation=scored(s1=dice, s2=0.9))
    assert kinds(result(s2=1.3), pack) == [("missing", ("structure 1",))] * warns
    assert kinds(result(s1=0.3, s2=1.3), pack) == [("small", ("structure 1",))] * warns
    assert kinds(result(s1=0.65, s2=1.1), pack) == [("asymmetric", ("structure 1", "structure 2"))] * warns
    assert kinds(result(s1=1.7, s2=1.1), pack) == [("large", ("structure 1",))], "said all the same"
    unsaid = replace(pack, expected=None)
    assert kinds(result(s2=1.3, s3=0.2), unsaid) == [("missing", ("structure 1",))] * warns


def test_a_result_with_nothing_is_said_also_of_what_the_pack_did_not_find_in_its_evaluation() -> None:
    pack = replace(PACK, evaluation=scored(s1=0.0, s2=0.9))
    assert kinds(result(), pack) == [("empty", ())]
    (found,) = warnings(result(s2=1.0), pack, LEFT)
    assert (found.kind, found.labels) == ("empty", ("structure 1",))
    assert "(structure 1), as in the pack's own evaluation. Do not use this result" in found.sentence


def test_what_the_pack_does_not_find_makes_no_result_implausible() -> None:
    volume, pack = oddities(4, 9)
    assert kinds(volume, pack)[0] == ("implausible", ())
    never = replace(pack, evaluation=scored(s1=0.0, s3=0.0))  # one that is missing and one that is too small
    assert kinds(volume, never) == [("missing", ("structure 2",)), ("small", ("structure 4",))]
    sentence = warnings(volume, replace(pack, evaluation=scored(s1=0.0)))[0].sentence
    assert "3 of 8 structures are missing, or far from their size or place" in sentence
    assert pack.expected is not None
    tiny = tuple(replace(each, largest_ml=0.05 if each.value == 3 else 1.1) for each in pack.expected.labels)
    large = replace(never, expected=replace(pack.expected, labels=tiny))
    assert kinds(volume, large)[1:] == [("large", ("structure 3",)), ("small", ("structure 4",))], "said, not counted"


def test_a_pack_that_does_not_say_what_to_expect() -> None:
    pack = manifest()
    (found,) = warnings(result(s2=1.3, cut=(RIGHT,)), pack)
    assert (found.kind, found.labels) == ("missing", ("structure 1", "structure 3"))
    assert "training" not in found.sentence
    assert kinds(result(), pack) == [("empty", ())]


def test_nothing_at_all() -> None:
    (found,) = warnings(result())
    assert (found.kind, found.labels) == ("empty", ())
    assert found.sentence.startswith("Nothing was found at all. Do not use this result")
    assert "Generated test pack; MR, head" in found.sentence
    assert kinds(result(), manifest(expected=replace(EXPECTED, smallest_ml=0.0))) == [("empty", ())]
    rare = tuple(replace(label, cases=3) for label in EXPECTED.labels)
    assert kinds(result(), manifest(expected=replace(EXPECTED, smallest_ml=0.0, labels=rare))) == []


def test_single_structures_that_were_not_chosen_are_not_named() -> None:
    odd = result(s1=0.2, s2=0.9, s3=0.2)
    assert kinds(odd, PACK, RIGHT) == []
    assert kinds(odd, PACK, RIGHT, RARE) == []
    assert kinds(odd, PACK, LEFT) == [("small", ("structure 1",))]
    assert kinds(result(s2=1.0), PACK, LEFT) == [("empty", ("structure 1",))]
    assert kinds(result(s2=1.0), PACK, RARE) == []
    assert kinds(result(s1=1.0, s2=0.6), PACK, LEFT) == [], "a pair needs both"


@pytest.mark.parametrize("wanted", [(20,), (1,), (2, 20)], ids=["one as expected", "a missing one", "two"])
def test_the_result_as_a_whole_is_judged_by_all_structures_whatever_was_chosen(wanted: tuple[int, ...]) -> None:
    volume, pack = oddities(8, 20)
    everything = judge(volume, pack.labels, pack)
    found = warnings(volume, pack, *wanted)
    assert found[0] == everything[0]
    assert found[0].kind == "implausible"
    assert {name for each in found for name in each.labels} <= {f"structure {value}" for value in wanted}
    assert ("empty" in [each.kind for each in found]) == (wanted == (1,))


def test_one_far_structure_that_was_chosen_speaks_of_the_orientation_if_many_are_far() -> None:
    _, pack = placed(BOX)
    x, y, z = BOX[0]
    moved = placed([(x, y, z + 20), BOX[1], BOX[2], (30, 34, 30), *BOX[4:7], (8, 8, 2)])[0]
    everything = judge(moved, pack.labels, pack)
    far = next(each for each in everything if each.kind == "displaced")
    assert len(far.labels) >= 3
    (value,) = (label.value for label in pack.labels if label.name == far.labels[0])
    (alone,) = (each for each in warnings(moved, pack, value) if each.kind == "displaced")
    assert (alone.labels, alone.found) == (far.labels[:1], far.found)
    assert "the orientation of the volume is right" in alone.sentence


def test_a_sum_of_one_structure_is_said_once() -> None:
    labels = EXPECTED.labels[:1]
    pack = manifest(1, expected=replace(EXPECTED, smallest_ml=0.9, largest_ml=1.1, labels=labels, pairs=()))
    assert kinds(result(s1=0.3), pack) == [("small", ("structure 1",))]


@given(st.floats(0.9, 1.1), st.floats(0.9, 1.1), st.floats(0.1, 0.4))
def test_nothing_inside_of_the_ranges_is_odd(left: float, right: float, rare: float) -> None:
    assert warnings(result(s1=left, s2=right, s3=rare)) == ()


def test_an_input_that_was_let_through() -> None:
    found = input_warning("this looks like CT. Give an MR scan.", PACK)
    assert (found.kind, found.pack_id, found.labels) == ("input", PACK.id, ())
    assert found.sentence.endswith("which found: this looks like CT. Give an MR scan.")

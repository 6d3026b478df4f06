from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.dataset import Case
from distillation.export.training_set import (
    describe_expected,
    joined_expected,
    joined_field_of_view,
    left_right_pairs,
    turned_field_of_view,
)
from distillation.recipe_file import read_recipe
from KDSegmentatorLib.errors import TrainingError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import write_volume
from KDSegmentatorLib.packs.manifest import Code, Expected, ExpectedLabel, ExpectedPair, FieldOfView, Label
from support.labels import label

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from KDSegmentatorLib.packs.pack import StudentPack

LEFT, RIGHT = (
    Code(scheme="SCT", value=value, meaning=meaning) for value, meaning in (("7771000", "Left"), ("24028007", "Right"))
)
ANTERIOR = Code(scheme="SCT", value="255549009", meaning="Anterior")


def coded(value: int, kind: str, **terms: Code) -> Label:
    base = label(value, f"structure {value}")
    kind_code = Code(scheme="SCT", value=kind, meaning=f"as {value} calls it")
    return replace(base, terminology=replace(base.terminology, type=kind_code, **terms))


EXPECTED = Expected(cases=1, smallest_ml=1.0, largest_ml=2.0, labels=(), pairs=())

LABELS = (
    coded(1, "1", type_modifier=LEFT),
    coded(2, "1", type_modifier=RIGHT),
    coded(3, "2"),
    coded(4, "3"),
)


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    """Return a function that writes a segmentation: label value to number of voxels of 0.5 ml, and what is cut off."""
    made: list[Path] = []

    def write(counts: dict[int, int], cut: int = 0) -> Case:
        voxels = np.zeros((10, 12, 14), np.int16)
        for value, count in counts.items():
            voxels[0 if value == cut else 1, 2 * value, 1 : 1 + count] = value
        made.append(tmp_path / f"{len(made)}.nii.gz")
        write_volume(Volume(voxels, (5.0, 10.0, 10.0), (1.0, 2.0, 3.0)), made[-1])
        return Case(name=made[-1].name, image=made[-1], label=made[-1])

    return write


def test_ranges_in_millilitres(case: Callable[..., Case]) -> None:
    cases = [case({1: 4, 2: 5, 3: 2}), case({1: 6, 2: 4, 3: 1}, cut=3), case({1: 3, 2: 3}), case({2: 9}, cut=2)]
    found = describe_expected(cases, LABELS)
    assert (found.cases, found.smallest_ml, found.largest_ml) == (4, 3.0, 5.5)
    assert found.labels == (
        ExpectedLabel(value=1, cases=3, at_edge=0, smallest_ml=1.5, largest_ml=3.0),
        ExpectedLabel(value=2, cases=4, at_edge=1, smallest_ml=1.5, largest_ml=4.5),
        ExpectedLabel(value=3, cases=2, at_edge=1, smallest_ml=1.0, largest_ml=1.0),
    )
    assert found.pairs == (ExpectedPair(left=1, right=2, largest_difference=0.4),)


def test_what_is_bright_and_what_is_dark(tmp_path: Path) -> None:
    """Of six labels; the second case is twice as bright, which does not matter."""
    voxels = np.zeros((8, 4, 4), np.uint8)
    voxels[1:7] = np.arange(1, 7, dtype=np.uint8)[:, None, None]
    grid = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    cases = []
    for scale in (1, 2):
        image, label_path = tmp_path / f"{scale}.nii.gz", tmp_path / f"{scale}_labels.nii.gz"
        write_volume(Volume((scale * (10 + 5 * voxels.astype(np.int16))).astype(np.int16), *grid), image)
        write_volume(Volume(voxels, *grid), label_path)
        cases.append(Case(name=str(scale), image=image, label=label_path))
    labels = tuple(coded(value, str(value)) for value in range(1, 7))
    found = describe_expected(cases, labels)
    steps = np.arange(-2.5, 3) / np.arange(-2.5, 3).std()
    assert [each.intensity for each in found.labels] == pytest.approx(list(steps), abs=1e-3)
    few = describe_expected(cases, labels[:5]).labels
    assert [(each.intensity, each.place) for each in few] == [(None, None)] * 5


def in_slices(folder: Path, name: str, slices: list[int], values: list[int]) -> Case:
    """Return a case with these labels in slices of 48 mm3 of a scan of 20 slices of 3 mm, whose z runs down."""
    voxels = np.zeros((20, 6, 6), np.uint8)
    for z, value in zip(slices, values, strict=True):
        voxels[z, 1:5, 1:5] = value
    direction = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    case = Case(name=name, image=folder / f"{name}.nii.gz", label=folder / f"{name}_labels.nii.gz")
    for path in (case.image, case.label):
        write_volume(Volume(voxels, (1.0, 1.0, 3.0), (5.0, 6.0, 7.0), direction), path)
    return case


def test_where_structures_are(tmp_path: Path) -> None:
    """The second case lies lower and lacks structure 6; in the third 5 is two slices farther away, beyond 6."""
    cases = [
        in_slices(tmp_path, "a", [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        in_slices(tmp_path, "b", [8, 9, 10, 11, 12], [1, 2, 3, 4, 5]),
        in_slices(tmp_path, "c", [1, 2, 3, 4, 6, 7], [1, 2, 3, 4, 6, 5]),
    ]
    found = describe_expected(cases, tuple(coded(value, str(value)) for value in range(1, 7))).labels
    steps = np.diff([each.place[2] for each in found if each.place is not None])
    assert steps[:4] == pytest.approx([-3, -3, -3, -5], abs=0.01)
    assert [each.place[:2] for each in found if each.place is not None] == [(0.0, 0.0)] * 6
    assert found[4].displacement == pytest.approx(4, abs=1)
    assert max(each.displacement or 0 for each in found[:4]) < 1


def test_what_is_cut_has_no_place(tmp_path: Path) -> None:
    cases = [in_slices(tmp_path, str(n), [0, 2, 3, 4, 5, 6 + n], [1, 2, 3, 4, 5, 6]) for n in range(2)]
    found = describe_expected(cases, tuple(coded(value, str(value)) for value in range(1, 7))).labels
    assert (found[0].place, found[0].displacement) == (None, None)
    assert None not in [each.place for each in found[1:]]


def test_the_smallest_is_a_cut_one_if_all_are(case: Callable[..., Case]) -> None:
    found = describe_expected([case({3: 2}, cut=3), case({3: 4}, cut=3)], LABELS)
    assert found.labels == (ExpectedLabel(value=3, cases=2, at_edge=2, smallest_ml=1.0, largest_ml=2.0),)
    assert (found.smallest_ml, found.largest_ml) == (1.0, 2.0)
    assert found.pairs == ()


def test_a_segmentation_that_is_none(case: Callable[..., Case], tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    write_volume(Volume(np.full((4, 4, 4), 0.5, np.float32), (1.0,) * 3, (0.0,) * 3), path)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"scan\.nii\.gz: .*not whole numbers"):
        describe_expected([case({1: 2}), Case(name="scan", image=path, label=path)], LABELS)


def test_pairs_by_terminology() -> None:
    assert left_right_pairs(LABELS) == ((1, 2),)
    region = tuple(
        coded(value, "9", region=Code(scheme="SCT", value="5", meaning="Lung"), region_modifier=side)
        for value, side in ((1, RIGHT), (2, LEFT))
    )
    assert left_right_pairs(region) == ((2, 1),), "whatever comes first"
    alone = (coded(1, "1", type_modifier=LEFT), coded(2, "2", type_modifier=RIGHT))
    assert left_right_pairs(alone) == ()
    other_parts = (coded(1, "1", type_modifier=LEFT, region=ANTERIOR), coded(2, "1", type_modifier=RIGHT))
    assert left_right_pairs(other_parts) == ()
    ambiguous = (*LABELS[:2], coded(3, "1", type_modifier=LEFT))
    assert left_right_pairs(ambiguous) == (), "its parts have the same codes"


@pytest.mark.parametrize(("recipe", "pairs"), [("hippocampus", 0), ("head_neck_ct", 1), ("brain_t1", 20)])
def test_pairs_of_the_recipes(recipe: str, pairs: int) -> None:
    labels = read_recipe(recipe).pack.labels
    names = {each.value: each.name for each in labels}
    found = left_right_pairs(labels)
    assert len(found) == pairs
    for left, right in found:
        assert names[left].startswith("Left ")
        assert names[right] == names[left].replace("Left ", "Right ")


def test_of_two_training_sets_the_wider_bounds_are_expected(case: Callable[..., Case]) -> None:
    """Except for the means of intensities and places, it is what the cases of both together give."""
    cases = [case({1: 4, 2: 8, 3: 1}), case({1: 2, 2: 2, 3: 5}), case({1: 6, 2: 5, 4: 3}), case({3: 2, 4: 6}, cut=4)]
    together = describe_expected(cases, LABELS)
    joined = joined_expected(describe_expected(cases[:2], LABELS), describe_expected(cases[2:], LABELS))
    assert joined == together
    assert joined_expected(None, together) is None


def test_a_structure_may_be_wherever_either_training_set_has_it() -> None:
    first = ExpectedLabel(
        value=1, cases=3, at_edge=0, smallest_ml=1, largest_ml=2, intensity=0.5, place=(0.0, 0.0, 0.0), displacement=2.0
    )
    second = replace(first, cases=1, intensity=-0.5, place=(4.0, 0.0, 0.0), displacement=5.0)
    one, other = (replace(EXPECTED, labels=(each,)) for each in (first, replace(second, smallest_ml=0.5)))
    joined = joined_expected(one, other)
    assert joined is not None
    (found,) = joined.labels
    assert (found.cases, found.intensity, found.smallest_ml) == (4, 0.25, 0.5)
    assert found.place == (1.0, 0.0, 0.0)
    assert found.displacement == 8.0  # 3 mm from the mean place to the second, and 5 mm from there
    unknown = replace(EXPECTED, labels=(replace(second, place=None, displacement=None, intensity=None),))
    (found,) = joined_expected(one, unknown).labels  # type: ignore[union-attr]
    assert (found.place, found.displacement, found.intensity) == (first.place, first.displacement, first.intensity)


def test_fields_of_view_are_joined_along_the_same_axes(teacher_pack: StudentPack) -> None:
    manifest = teacher_pack.manifest
    preprocessing = replace(manifest.preprocessing, axis_codes="RAS")
    field = FieldOfView(smallest=(10.0, 20.0, 30.0), largest=(11.0, 21.0, 31.0))
    before = turned_field_of_view(replace(manifest, preprocessing=preprocessing, field_of_view=field), "SLP")
    assert before == FieldOfView(smallest=(30.0, 10.0, 20.0), largest=(31.0, 11.0, 21.0))
    after = FieldOfView(smallest=(25.0, 15.0, 20.0), largest=(40.0, 11.0, 20.0))
    assert joined_field_of_view(before, after) == FieldOfView(smallest=(25.0, 10.0, 20.0), largest=(40.0, 11.0, 21.0))
    assert turned_field_of_view(replace(manifest, field_of_view=None), "SLP") is None
    assert joined_field_of_view(None, after) is None

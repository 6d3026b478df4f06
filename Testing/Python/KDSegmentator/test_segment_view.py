"""What the cards and the qualities of the Segment box say, on the packs that are shipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.jobs.messages import TaskAdvice
from KDSegmentatorLib.packs.catalogue import Family, families
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.segment_view import PICTURES, qualities, quality_names, task_cards
from KDSegmentatorPanel.selection import by_usefulness
from KDSegmentatorPanel.wording import volume_text
from support.mrml_scene import MrmlScene
from support.segment_box import scan


@pytest.fixture(scope="module")
def shipped() -> tuple[Family, ...]:
    """Return the families that come with the module."""
    return tuple(by_usefulness(families(PackStore(PICTURES / "none").packs())))


def test_the_most_useful_task_comes_first_and_helpers_last(shipped: tuple[Family, ...]) -> None:
    tasks = [card.task for card in task_cards(shipped, {})]
    assert (tasks[0], tasks[-1]) == ("brain-t1", "brain-extraction")


def test_a_card_says_what_the_task_may_be_used_for_and_shows_what_it_finds(shipped: tuple[Family, ...]) -> None:
    card = task_cards(shipped, {})[0]
    assert card.facts == "MR · 45 structures · for research · not commercial"
    assert card.picture is not None
    assert card.picture.is_file()


def test_tasks_that_do_not_fit_come_after_those_that_do_with_the_reason_in_short(shipped: tuple[Family, ...]) -> None:
    problem = "The volume is too small (20.5 mm left to right, 3 mm) for this task, which knows others. Crop nothing."
    cards = task_cards(shipped, {"brain-t1": TaskAdvice(problem=problem)})
    assert cards[-1].task == "brain-t1"
    assert cards[-1].problem == "The volume is too small (20.5 mm left to right, 3 mm) for this task"
    assert cards[-1].details == problem


def test_the_recommended_quality_is_marked_whatever_the_computer_is(shipped: tuple[Family, ...]) -> None:
    family = next(each for each in shipped if each.task == "brain-t1")
    found = qualities(family, TaskAdvice(advised="x1/4"), lambda _size: None)
    assert [(row.name, row.size, row.mark) for row in found] == [("Fast", "x1/4", ""), ("Best", "x1/2", "recommended")]
    assert found[0].cells[2] == "0.809 (n = 18)"


def named(*scores: float) -> list[Manifest]:
    """Return manifests of sizes from x1 down, with these mean Dice."""
    any_of: Any = PackStore(PICTURES / "none").get("hippocampus-x1_4").manifest
    sizes = ["x1", "x1/2", "x1/4", "x1/8"]
    return [
        replace(
            any_of,
            size=size,
            evaluation=replace(any_of.evaluation, mean_dice=replace(any_of.evaluation.mean_dice, mean=score)),
        )
        for size, score in zip(sizes, scores, strict=False)
    ]


@pytest.mark.parametrize(
    ("scores", "names"),
    [
        ((0.9,), ["Standard"]),
        ((0.9, 0.8), ["Best", "Fast"]),
        ((0.9, 0.85, 0.8), ["Best", "Balanced", "Fast"]),
        ((0.8, 0.85, 0.8), ["Full size", "Balanced", "Fast"]),
    ],
)
def test_the_largest_is_the_best_only_where_it_is(scores: tuple[float, ...], names: list[str]) -> None:
    assert [quality_names(named(*scores))[each.size] for each in named(*scores)] == names


def test_four_sizes_have_four_names() -> None:
    assert len(set(quality_names(named(0.9, 0.8, 0.7, 0.6)).values())) == 4


def test_two_volumes_of_one_name_are_told_apart(mrml: MrmlScene) -> None:
    first = mrml.volume_node(scan(), "T1")
    assert volume_text(first) == "18 x 24 x 20 voxels of 1.1 x 0.9 x 1.7 mm"
    second = mrml.volume_node(scan(), "T1")
    second.SetName("T1")
    assert volume_text(second).endswith("number 2 of 2 with this name")
    assert volume_text(None) == ""

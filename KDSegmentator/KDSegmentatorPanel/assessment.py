"""What each task means for a volume: whether it fits, how long each size takes here, and which one is advised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference import plausibility
from KDSegmentatorLib.packs.catalogue import Family
from KDSegmentatorPanel.estimation import Answer, Expected, Question
from KDSegmentatorPanel.outline import Outline
from KDSegmentatorPanel.wording import for_people

Wanted = TypeVar("Wanted")


@dataclass(frozen=True, kw_only=True)
class TaskAssessment:
    """What one family means for the volume.

    Attributes:
        problem: why it does not fit; empty if it does.
        estimates: of every size; empty if there are none.
        advised: size; empty if none is.
        reason: for the advice, one sentence.
    """

    problem: str = ""
    estimates: dict[str, Expected]
    advised: str = ""
    reason: str = ""


Assessment = dict[str, TaskAssessment]
"""By task."""

Choices = Callable[[Outline, tuple[str, ...]], Question]
"""Makes the question for an outline and some tasks from what the user has chosen."""


def assess(
    volume: Volume,
    families: Sequence[Family],
    choices: Choices,
    *,
    check_input: bool,
    estimate: Callable[[Question], Answer],
) -> Assessment:
    """Return what each family means for the volume.

    Args:
        volume: the scan.
        families: of the installed packs.
        choices: what the user has chosen.
        check_input: whether the volume has to be of the packs' modality and field of view.
        estimate: answers the question for time and memory.
    """
    try:
        plausibility.check_finite(volume)
    except KDSegmentatorError as error:
        return {family.task: TaskAssessment(problem=for_people(error), estimates={}) for family in families}
    modalities = {family.packs[0].manifest.modality for family in families} if check_input else set()
    problems = {modality: _problem(plausibility.check_intensities, volume, modality) for modality in modalities}
    assessment = {}
    for family in families:
        manifest = family.packs[0].manifest
        problem = problems.get(manifest.modality, "")
        if check_input and not problem:
            problem = _problem(plausibility.check_field_of_view, volume, manifest)
        assessment[family.task] = TaskAssessment(problem=problem, estimates={})
    fitting = tuple(task for task, each in assessment.items() if not each.problem)
    for task, found in (estimate(choices(Outline.of(volume), fitting)) if fitting else {}).items():
        assessment[task] = replace(
            assessment[task],
            problem=found.problem[:1].upper() + found.problem[1:],
            estimates=found.sizes,
            advised=found.advised,
            reason=found.reason,
        )
    return assessment


def _problem(check: Callable[[Volume, Wanted], None], volume: Volume, wanted: Wanted) -> str:
    try:
        check(volume, wanted)
    except KDSegmentatorError as error:
        return for_people(error)
    return ""

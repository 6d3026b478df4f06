"""What the Segment box shows, worked out before Qt is asked to show it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Literal

from KDSegmentatorLib.jobs.messages import Segmented, TaskAdvice
from KDSegmentatorLib.jobs.run import SizeResult
from KDSegmentatorLib.packs.catalogue import Family, recommended
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import duration, for_people, memory

PICTURES = Path(__file__).resolve().parents[1] / "Resources" / "Tasks"
"""A picture of what each task finds, ``TASK.png``; a task without one is shown without."""


class State(Enum):
    """Where the panel is."""

    NO_VOLUME = auto()
    """Nothing can be segmented yet: no volume, or none of the packs fits it."""

    READY = auto()
    RUNNING = auto()
    CANCELLING = auto()
    DONE = auto()
    FAILED = auto()

    @property
    def at_work(self) -> bool:
        """Whether a run has not ended yet: nothing can be chosen until it has."""
        return self in (State.RUNNING, State.CANCELLING)


@dataclass(frozen=True, kw_only=True)
class TaskCard:
    """A task to choose.

    Attributes:
        task: name of the family.
        title: for people.
        facts: modality, structures, and what it may be used for.
        problem: why it cannot be chosen, in short; empty if it can.
        details: all of that, and what to do.
        picture: file of what it finds; None if there is none.
    """

    task: str
    title: str
    facts: str
    problem: str
    details: str
    picture: Path | None


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A size to choose, as users see it.

    Attributes:
        size: for example ``x1/4``.
        name: ``Fast``, ``Balanced``, ``Best``.
        cells: time, memory and accuracy on this computer.
        mark: what speaks for it; empty if nothing does.
        details: for researchers.
    """

    size: str
    name: str
    cells: tuple[str, str, str]
    mark: str
    details: str


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """A structure to keep or to leave out; ``color`` is RGB, 0 to 255."""

    name: str
    color: tuple[int, int, int]
    kept: bool


@dataclass(frozen=True, kw_only=True)
class ProgressRow:
    """State of the progress bar; ``total`` 0 while there is nothing to count."""

    done: int = 0
    total: int = 0
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Message:
    """The line below the button: what happened, and what to do."""

    text: str = ""
    level: Literal["information", "warning", "error"] = "information"


@dataclass(frozen=True, kw_only=True)
class SegmentView:
    """All of the Segment box.

    Attributes:
        state: decides what is enabled and shown.
        volume: facts that tell the volume from others of its name.
        tasks: to choose from, the most useful first.
        task: the one that will be run; empty if there is none.
        qualities: the sizes of the task, the fastest first.
        size: the one that will be run; empty if there is none.
        labels: of the task.
        chained: whether the task finds a region first, which can be left out.
        progress: of the run.
        what: what a run will do, or why there can be none.
        message: below the button.
        smaller: quality that is offered because the one before did not fit into memory, and its size; None if none is.
    """

    state: State
    volume: str
    tasks: tuple[TaskCard, ...]
    task: str
    qualities: tuple[Quality, ...]
    size: str
    labels: tuple[LabelRow, ...]
    chained: bool
    progress: ProgressRow
    what: str
    message: Message
    smaller: Quality | None


def task_cards(families: tuple[Family, ...], assessment: dict[str, TaskAdvice]) -> tuple[TaskCard, ...]:
    """Return the tasks, each with the reason why it does not fit the volume; those that fit come first."""
    cards = [_card(family.packs[0].manifest, assessment.get(family.task)) for family in families]
    return tuple(sorted(cards, key=lambda card: bool(card.problem)))


def qualities(
    family: Family, assessment: TaskAdvice | None, seconds: Callable[[str], float | None]
) -> tuple[Quality, ...]:
    """Return the sizes of a family, each with what it takes here and how well it does.

    Args:
        family: of packs.
        assessment: of the volume; None if there is none.
        seconds: of a size, from now on.
    """
    own = recommended(family.packs).manifest.size
    names = quality_names([pack.manifest for pack in family.packs])
    manifests = [pack.manifest for pack in reversed(family.packs)]
    return tuple(_quality(each, names[each.size], assessment, own, seconds(each.size)) for each in manifests)


def quality_names(manifests: list[Manifest]) -> dict[str, str]:
    """Return what to call the sizes of a task.

    The largest is the best only if no smaller one did better on the same cases.

    Args:
        manifests: of the sizes, the largest first.
    """
    sizes = [manifest.size for manifest in manifests]
    if len(sizes) == 1:
        return {sizes[0]: _("Standard")}
    scores = [0.0 if each.evaluation is None else each.evaluation.mean_dice.mean for each in manifests]
    names = {size: _("Balanced {number}").format(number=number) for number, size in enumerate(reversed(sizes))}
    if len(sizes) == 3:
        names[sizes[1]] = _("Balanced")
    names[sizes[0]] = _("Best") if scores[0] >= max(scores) else _("Full size")
    names[sizes[-1]] = _("Fast")
    return names


def label_rows(family: Family, left_out: frozenset[str]) -> tuple[LabelRow, ...]:
    """Return the structures of a family."""
    return tuple(
        LabelRow(name=label.name, color=label.color, kept=label.name not in left_out)
        for label in family.packs[0].manifest.labels
    )


def structures(count: int) -> str:
    """Return a number of structures in words."""
    return _("1 structure") if count == 1 else _("{count} structures").format(count=count)


def _card(manifest: Manifest, assessment: TaskAdvice | None) -> TaskCard:
    facts = [manifest.modality, structures(len(manifest.labels))]
    if manifest.intended_use.casefold().startswith("research"):
        facts.append(_("for research"))
    if "-NC" in manifest.weights.license:
        facts.append(_("not commercial"))
    problem = "" if assessment is None else assessment.problem
    picture = PICTURES / f"{manifest.task}.png"
    return TaskCard(
        task=manifest.task,
        title=manifest.title,
        facts=" · ".join(facts),
        problem=_in_short(problem),
        details=problem or f"{manifest.title}. {manifest.intended_use}",
        picture=picture if picture.is_file() else None,
    )


def _in_short(problem: str) -> str:
    """Return the first clause of a reason."""
    clause = re.match(r"(?:\([^)]*\)|[^,;:.(]|[,;:.](?! |$))+", problem)  # what is in parentheses belongs to it
    return clause[0] if clause else problem


def _quality(manifest: Manifest, name: str, assessment: TaskAdvice | None, own: str, seconds: float | None) -> Quality:
    size = manifest.size
    details = [_("{size} (teacher)").format(size=size) if size == "x1" else size, accuracy(manifest)]
    evaluation = manifest.evaluation
    score = (
        _("not measured")
        if evaluation is None
        else _("{dice} (n = {cases})").format(dice=f"{evaluation.mean_dice.mean:.3f}", cases=evaluation.cases)
    )
    time = space = "…"
    marks = [_("recommended")] if size == own else []
    if assessment is not None and size in assessment.sizes:
        expected = assessment.sizes[size]
        time = _("about {time}").format(time=duration(expected.seconds if seconds is None else seconds))
        space = memory(expected.memory_bytes)
        if not expected.measured:
            details.append(_("The time is a guess: this size has not run on this computer yet."))
        if expected.obstacle:
            details.append(f"{size} {expected.obstacle}")
            marks = [_("too large here")]
        elif size == assessment.advised and size != own:
            marks.append(_("suits this computer"))
        if size == assessment.advised:
            details.append(assessment.reason)
    details += [
        _("{name}: Dice {dice}").format(name=name, dice=f"{dice:.3f}") for name, dice in _label_scores(manifest)
    ]
    return Quality(size=size, name=name, cells=(time, space, score), mark=", ".join(marks), details="\n".join(details))


def accuracy(manifest: Manifest) -> str:
    """Return how well a pack does, with the teacher on the same cases: ``Dice 0.83 (teacher 0.84), n = 8``."""
    evaluation = manifest.evaluation
    if evaluation is None:
        return _("The accuracy of this size was not measured.")
    mean = f"{evaluation.mean_dice.mean:.3f}"
    if evaluation.teacher_mean_dice is None or manifest.size == "x1":
        return _("Dice {mean}, n = {cases}, {dataset}").format(
            mean=mean, cases=evaluation.cases, dataset=evaluation.dataset
        )
    return _("Dice {mean} (teacher {teacher}), n = {cases}, {dataset}").format(
        mean=mean,
        teacher=f"{evaluation.teacher_mean_dice:.3f}",
        cases=evaluation.cases,
        dataset=evaluation.dataset,
    )


def _label_scores(manifest: Manifest) -> list[tuple[str, float]]:
    if manifest.evaluation is None:
        return []
    names = {label.value: label.name for label in manifest.labels}
    return [(names[score.value], score.dice.mean) for score in manifest.evaluation.labels]


def about_size(result: SizeResult) -> str:
    """Return how one size was run, for the log."""
    record = result.segmentation.record
    reasons = ". ".join(reason for reason in (result.size_reason, result.engine_reason) if reason)
    return _("{size}: {seconds} s with {engine} {precision} on {device}. {reasons}").format(
        size=record.size,
        seconds=f"{record.seconds['total']:.1f}",
        engine=record.engine,
        precision=record.precision,
        device=record.device,
        reasons=reasons,
    )


def done_message(event: Segmented) -> Message:
    """Return what became of a run: times, sizes that failed, and how many warnings the results have."""
    records = [result.segmentation.record for result in event.results]
    seconds = duration(sum(record.seconds["total"] for record in records))
    count = len(event.results)
    text = _("Done in {time}.") if count == 1 else _("{count} results in {time}.")
    parts = [text.format(time=seconds, count=count)]
    parts += [
        _("{size} failed: {reason}").format(size=failure.size, reason=for_people(failure.error))
        for failure in event.failures
    ]
    warnings = sum(len(record.warnings) for record in records)
    if warnings:
        text = (
            _("There is a warning: read it below.")
            if warnings == 1
            else _("There are {count} warnings: read them below.")
        )
        parts.append(text.format(count=warnings))
    return Message(text=" ".join(parts), level="warning" if warnings or event.failures else "information")

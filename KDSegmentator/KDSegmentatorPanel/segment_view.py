"""What the Segment box shows, worked out before Qt is asked to show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from KDSegmentatorLib.packs.catalogue import Family
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorPanel.assessment import TaskAssessment
from KDSegmentatorPanel.state import State
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import duration, memory


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """A task to choose; ``problem`` says why it cannot be, empty if it can."""

    task: str
    title: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """A size to choose."""

    size: str
    text: str
    tooltip: str


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
        tasks: to choose from.
        task: the one that will be run; empty if there is none.
        sizes: of the task.
        size: the one that will be run; empty if there is none.
        labels: of the task.
        progress: of the run.
        what: what a run will do, or why there can be none.
        message: below the button.
        smaller: size that is offered because the one before it did not fit into memory; empty if none is.
    """

    state: State
    tasks: tuple[TaskRow, ...]
    task: str
    sizes: tuple[SizeRow, ...]
    size: str
    labels: tuple[LabelRow, ...]
    progress: ProgressRow
    what: str
    message: Message
    smaller: str


def task_rows(families: tuple[Family, ...], assessment: dict[str, TaskAssessment]) -> tuple[TaskRow, ...]:
    """Return the tasks, each with the reason why it does not fit the volume."""
    return tuple(
        TaskRow(
            task=family.task,
            title=_title(family.packs[0].manifest),
            problem=assessment[family.task].problem if family.task in assessment else "",
        )
        for family in families
    )


def size_rows(family: Family, assessment: TaskAssessment | None) -> tuple[SizeRow, ...]:
    """Return the sizes of a family, each with what it takes here and how well it does."""
    return tuple(_size_row(pack.manifest, assessment) for pack in family.packs)


def label_rows(family: Family, left_out: frozenset[str]) -> tuple[LabelRow, ...]:
    """Return the structures of a family."""
    return tuple(
        LabelRow(name=label.name, color=label.color, kept=label.name not in left_out)
        for label in family.packs[0].manifest.labels
    )


def _title(manifest: Manifest) -> str:
    return f"{manifest.title} ({manifest.modality})"


def _size_row(manifest: Manifest, assessment: TaskAssessment | None) -> SizeRow:
    text = _("{size} (teacher)").format(size=manifest.size) if manifest.size == "x1" else manifest.size
    lines = [accuracy(manifest)]
    if assessment is not None and manifest.size in assessment.estimates:
        expected = assessment.estimates[manifest.size]
        text += " · " + _("about {time} · {memory}").format(
            time=duration(expected.seconds), memory=memory(expected.memory)
        )
        if not expected.measured:
            text += " " + _("(a guess)")
        if expected.obstacle:
            lines.append(f"{manifest.size} {expected.obstacle}")
        if manifest.size == assessment.advised:
            text += " · " + _("advised")
            lines.append(assessment.reason)
    lines += [_("{name}: Dice {dice}").format(name=name, dice=f"{dice:.3f}") for name, dice in _label_scores(manifest)]
    return SizeRow(size=manifest.size, text=text, tooltip="\n".join(lines))


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

"""Whether a step is finished with these very inputs: one judgement for ``run``, its dry run and the single commands."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillation.run.record import Status
from KDSegmentatorLib.errors import TrainingError

if TYPE_CHECKING:
    from distillation.run.record import Records
    from distillation.run.steps import Step


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What goes into a step as it is now, and where the step stands with that."""

    inputs: dict[str, str]
    status: Status


def judge(step: Step, records: Records) -> Judgement:
    """Judge a step by its record; without a finished one, by what it left: an earlier version kept no records.

    Raises:
        TrainingError: a file that goes into it cannot be read.
    """
    try:
        inputs = step.inputs()
    except OSError as error:
        raise TrainingError(f"{step.name}: {error}; check the files and start again") from error
    status = records.status(step.name, inputs)
    if status.state in ("new", "started"):
        found = step.found()
        if found == "done" or status.state == "new":
            status = Status(state=found, record=status.record)
    return Judgement(inputs=inputs, status=status)


def judge_together(step: Step, records: Records, *, device: str) -> Judgement:
    """Judge a step; of processes that ``torchrun`` started, the first judges for all.

    A training must not be begun by some of them because they saw a file that appears in between.

    Args:
        step: the step.
        records: of the workspace.
        device: where it trains, which decides how processes talk.
    """
    if process_number() == 1:
        return judge(step, records)
    from distillation import distributed

    distributed.join_processes(device)
    return distributed.from_first(judge(step, records) if keeps_records() else None)  # type: ignore[return-value]


def process_number() -> int:
    """Return how many processes ``torchrun`` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def keeps_records() -> bool:
    """Return whether this process is the one that writes records: alone, or the first of several."""
    return os.environ.get("RANK", "0") == "0"

"""Run a recipe: a loop over its steps that skips what is done, refused before hours are lost."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from distillation.run.checks import check_before_start, check_machine, explained_memory, short_teacher
from distillation.run.forecast import Forecasts, describe_forecast
from distillation.training_log import duration_text
from KDSegmentatorLib.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distillation.launch import Progress
    from distillation.run.steps import Step
    from distillation.stages import Stages

_TRAININGS = ("teacher", "students")
_WORDS: dict[Progress, str] = {"done": "done", "started": "broken off, goes on", "new": "to do"}


def run(steps: Sequence[Step], stages: Stages, *, device: str, say: Callable[[str], None]) -> None:
    """Run steps; a broken-off run goes on where it was.

    Args:
        steps: those to run, in their order.
        stages: the recipe at work.
        device: where to train, ``cpu`` or ``cuda``.
        say: called with lines for people.

    Raises:
        KDSegmentatorError: an input does not fit, the machine is too small, or a step failed; finished steps stay.
    """
    _refuse_in_several_processes(steps)
    check_before_start(stages)
    _warn(steps, stages, say)
    stages.folder.mkdir(parents=True, exist_ok=True)
    forecasts = Forecasts(stages)
    for step in steps:  # what is known before the first step is refused before it
        if step.progress() != "done":
            check_machine(step, forecasts.of(step), stages.folder, device=device)
    for number, step in enumerate(steps, start=1):
        title = f"[{number}/{len(steps)}] {step.name}"
        if _shared_progress(step, device) == "done":
            say(f"{title}: nothing changed since it was done; skipped")
            continue
        forecast = forecasts.of(step)
        check_machine(step, forecast, stages.folder, device=device)
        say(f"{title}: {describe_forecast(forecast)}")
        start = time.perf_counter()
        with explained_memory(step):
            step.work()
        say(f"{title}: done in {duration_text(time.perf_counter() - start)}")


def describe_steps(steps: Sequence[Step], stages: Stages, say: Callable[[str], None]) -> None:
    """Say where every step stands and what it will take; nothing is written.

    Raises:
        KDSegmentatorError: recipe, dataset and teacher do not belong together.
    """
    check_before_start(stages)
    _warn(steps, stages, say)
    forecasts = Forecasts(stages)
    for step in steps:
        progress = step.progress()
        forecast = "nothing to do" if progress == "done" else describe_forecast(forecasts.of(step))
        say(f"{step.name}: {_WORDS[progress]}; {forecast}")


def _warn(steps: Sequence[Step], stages: Stages, say: Callable[[str], None]) -> None:
    warning = short_teacher(stages)
    if warning is not None and any(step.stage in _TRAININGS for step in steps):
        say(f"warning: {warning}")


def _shared_progress(step: Step, device: str) -> Progress:
    """Return how far a step is; of processes that ``torchrun`` started, the first one looks for all.

    A training must not be begun by some of them because they saw a file that appears in between.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return step.progress()
    from distillation import distributed

    distributed.join_processes(device)
    return distributed.from_first(step.progress() if os.environ.get("RANK", "0") == "0" else "new")


def _refuse_in_several_processes(steps: Sequence[Step]) -> None:
    """Refuse under ``torchrun`` what every process would do over again, in the same folders.

    Raises:
        TrainingError: it names the stages.
    """
    alone = [stage for stage in dict.fromkeys(step.stage for step in steps) if stage not in _TRAININGS]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and alone:
        raise TrainingError(
            f"torchrun is for trainings, not for {', '.join(alone)}: run these with kdseg-distill alone, and "
            "'run' under torchrun with --stage teacher-students"
        )

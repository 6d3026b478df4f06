"""Run a recipe: every step once, skipped when its inputs have not changed, refused before hours are lost."""

from __future__ import annotations

import platform
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distillation.run.forecast import Forecast, Forecasts, bytes_text, check_machine
from distillation.run.judgement import judge, judge_together, keeps_records, process_number
from distillation.run.preflight import check_before_start
from distillation.run.record import Records, Status, StepRecord
from distillation.splits import SPLITS_NAME
from distillation.training_log import duration_text
from KDSegmentatorLib.errors import TrainingError
from KDSegmentatorLib.machine.peak_memory import peak_memory
from KDSegmentatorLib.machine.processor import processor_name
from KDSegmentatorLib.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distillation.run.steps import Step, Steps
    from distillation.stages import Stages

_TRAININGS = ("teacher", "students")
_ON_ALL_NETWORKS = ("evaluate", "export", "report")


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A step, where it stands and what it will take."""

    step: Step
    status: Status
    forecast: Forecast


def plan_run(chosen: Sequence[Step], stages: Stages, *, measure: bool) -> list[PlannedStep]:
    """Return steps with where they stand and what they will take; nothing is written.

    What depends on all networks is not done as long as one of them has to be trained.

    Args:
        chosen: steps of the recipe, in their order.
        stages: the recipe at work.
        measure: whether trial steps may be run for the forecasts.
    """
    records = Records(stages.folder / "run")
    forecasts = Forecasts(stages, measure=measure)
    planned: list[PlannedStep] = []
    for step in chosen:
        status = judge(step, records).status
        earlier = [each.step.name for each in planned if each.status.state != "done"]
        if status.state == "done" and step.stage in _ON_ALL_NETWORKS and earlier:
            status = replace(status, state="changed", changes=tuple(earlier))
        planned.append(PlannedStep(step=step, status=status, forecast=forecasts.of(step, status)))
    return planned


def run(
    steps: Steps, chosen: Sequence[Step], stages: Stages, *, device: str, measure: bool, say: Callable[[str], None]
) -> None:
    """Run steps; a broken-off run goes on where it was.

    Args:
        steps: of the recipe.
        chosen: those to run, in their order.
        stages: the recipe at work.
        device: where to train, ``cpu`` or ``cuda``.
        measure: whether trial steps may be run for the forecasts.
        say: called with lines for people.

    Raises:
        KDSegmentatorError: an input does not fit, the machine is too small, or a step failed; finished steps stay.
    """
    _refuse_in_several_processes(chosen)
    check_before_start(stages)
    stages.folder.mkdir(parents=True, exist_ok=True)
    records = Records(stages.folder / "run")
    forecasts = Forecasts(stages, measure=measure)
    _refuse_stale_data(steps, chosen, records, device=device)
    for number, step in enumerate(chosen, start=1):
        judged = judge_together(step, records, device=device)
        if keeps_records():
            steps.hashes.save()
        title = f"[{number}/{len(chosen)}] {step.name}"
        if judged.status.state == "done":
            if judged.status.record is None or not judged.status.record.finished:
                _record(step, judged.inputs, records, finished=True)
            say(f"{title}: nothing changed since it was done; skipped")
            continue
        if judged.status.state == "changed":
            _refuse_to_lose(step, judged.status, stages)
            if step.stage == "prepare":
                _clear_prepared(stages)
        forecast = forecasts.of(step, judged.status)
        check_machine(step, forecast, stages.folder, device=device)
        say(f"{title}: {describe_forecast(forecast)}{_left(forecast, chosen[number:], records, forecasts)}")
        _record(step, judged.inputs, records, finished=False)
        start = time.perf_counter()
        step.work()
        seconds = round(time.perf_counter() - start, 1)
        _record(step, judged.inputs, records, finished=True, seconds=seconds)
        say(f"{title}: done in {duration_text(seconds)}")
    if keeps_records():
        steps.hashes.save()


def describe_status(status: Status) -> str:
    """Return where a step stands as a line for people."""
    if status.state == "done":
        seconds = None if status.record is None else status.record.seconds
        return "done" if seconds is None else f"done in {duration_text(seconds)}"
    if status.state == "changed":
        return f"to be done again, changed: {', '.join(status.changes)}"
    if status.missing:
        return f"to be done again, missing: {', '.join(status.missing)}"
    return "broken off, goes on" if status.state == "started" else "to do"


def describe_forecast(forecast: Forecast) -> str:
    """Return a forecast as a line for people."""
    if forecast.source == "recorded":
        return "nothing to do"
    parts = [
        "time unknown" if forecast.seconds is None else f"about {duration_text(forecast.seconds)} ({forecast.source})"
    ]
    if forecast.memory_bytes is not None:
        parts.append(f"{bytes_text(forecast.memory_bytes)} of memory")
    if forecast.disk_bytes is not None:
        parts.append(f"{bytes_text(forecast.disk_bytes)} on disk")
    return ", ".join(parts)


def _left(forecast: Forecast, later: Sequence[Step], records: Records, forecasts: Forecasts) -> str:
    """Return how long this step and later ones will take together, for people; nothing where only one is known."""
    found = [forecast, *(forecasts.of(step, judge(step, records).status) for step in later)]
    known = [each.seconds for each in found if each.seconds is not None]
    if len(known) < 2:
        return ""
    unknown = len(found) - len(known)
    return f"; {duration_text(sum(known))} left in all" + (
        f", {unknown} steps of unknown time not counted" if unknown else ""
    )


def _record(
    step: Step, inputs: dict[str, str], records: Records, *, finished: bool, seconds: float | None = None
) -> None:
    """Write down that a step was begun or finished; of processes that train together, the first one does."""
    if not keeps_records():
        return
    records.write(
        StepRecord(
            step=step.name,
            finished=finished,
            inputs=inputs,
            outputs=tuple(str(path) for path in step.outputs()) if finished else (),
            seconds=seconds,
            peak_bytes=peak_memory() if finished else None,
            machine={
                "processor": processor_name(),
                "system": f"{platform.system()} {platform.machine()}",
                "python": platform.python_version(),
                "kdsegmentator": __version__,
            },
        )
    )


def _refuse_to_lose(step: Step, status: Status, stages: Stages) -> None:
    """Refuse to go on with a training whose inputs changed, or to change the data under trainings.

    Raises:
        TrainingError: it names what changed and what to do.
    """
    changed = ", ".join(status.changes)
    results = stages.workspace.results / stages.recipe.dataset.name
    if step.trained is not None:
        folder = step.trained()
        fold = folder / f"fold_{stages.recipe.dataset.fold}"
        if any((fold / f"checkpoint_{name}.pth").is_file() for name in ("final", "latest", "best")):
            raise TrainingError(
                f"{step.name} was trained with other inputs; changed since then: {changed}. No training is thrown "
                f"away: put them back, or remove or rename {folder} to train again"
            )
    elif step.stage == "prepare" and results.is_dir() and any(results.iterdir()):
        raise TrainingError(
            f"the dataset was prepared with other inputs; changed since then: {changed}. Networks were trained on it: "
            f"put them back, give another --workspace, or remove or rename {results}"
        )


def _refuse_in_several_processes(chosen: Sequence[Step]) -> None:
    """Refuse under ``torchrun`` what every process would do over again, in the same folders.

    Raises:
        TrainingError: it names the stages.
    """
    alone = [stage for stage in dict.fromkeys(step.stage for step in chosen) if stage not in _TRAININGS]
    if process_number() > 1 and alone:
        raise TrainingError(
            f"torchrun is for trainings, not for {', '.join(alone)}: run these with kdseg-distill alone, and "
            "'run' under torchrun with --stage teacher-students"
        )


def _refuse_stale_data(steps: Steps, chosen: Sequence[Step], records: Records, *, device: str) -> None:
    """Refuse to train on what was preprocessed from an earlier state of the dataset, where no step prepares it anew.

    Raises:
        TrainingError: it names what changed.
    """
    stages = {step.stage for step in chosen}
    if "prepare" in stages or stages.isdisjoint(_TRAININGS):
        return
    (prepare,) = steps.of("prepare")
    status = judge_together(prepare, records, device=device).status
    if status.state == "changed":
        raise TrainingError(
            f"the dataset was prepared with other inputs; changed since then: {', '.join(status.changes)}. Run "
            "'kdseg-distill prepare' first, or put them back"
        )


def _clear_prepared(stages: Stages) -> None:
    """Remove what was computed from an earlier state of the dataset; the split stays, it may be somebody's own."""
    folder = stages.workspace.preprocessed / stages.recipe.dataset.name
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != SPLITS_NAME:
            path.unlink()

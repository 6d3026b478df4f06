"""How long a step will take and what it needs, and whether this machine has that."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distillation.dataset import find_dataset, read_header
from distillation.evaluation.scores import read_scores
from distillation.plans import read_plans, resolve_configuration, student_plans
from distillation.run.augmentation_cost import augmenting_processes
from distillation.run.curves import read_curves
from distillation.run.hashes import settings_hash
from distillation.run.judgement import process_number
from distillation.run.training_cost import checkpoint_bytes, measure_steps, training_bytes
from distillation.run.training_work import MeasuredSteps, TrainingWork
from distillation.sizes import alpha_of
from distillation.students import select_students
from KDSegmentatorLib.errors import InsufficientMemoryError, KDSegmentatorError, TrainingError
from KDSegmentatorLib.machine.hardware import detect_hardware

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from distillation.run.record import Status
    from distillation.run.steps import Step
    from distillation.settings import TrainingSettings
    from distillation.stages import Stages
    from KDSegmentatorLib.packs.manifest import Method

Source = Literal["recorded", "training log", "measured steps", "scores so far", "unknown"]

_CHECKPOINTS = 4
"""Files of a training: final, best, latest, and the one that is being written."""

_CHANNEL_BYTES, _LABEL_BYTES = 4, 2
"""A preprocessed voxel: every channel as float32, and its label in 16 bits, before compression."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a step will take.

    Attributes:
        seconds: wall time; None if unknown.
        source: where the time comes from.
        memory_bytes: largest memory, of all processes on this machine that train together; None if unknown.
        disk_bytes: what it will write; None if unknown or next to nothing.
    """

    seconds: float | None = None
    source: Source = "unknown"
    memory_bytes: int | None = None
    disk_bytes: int | None = None


class Forecasts:
    """Makes forecasts; steps of the same network are measured once.

    Args:
        stages: the recipe at work.
        measure: whether trial steps may be run, which takes seconds to minutes.
    """

    def __init__(self, stages: Stages, *, measure: bool) -> None:
        self._stages = stages
        self._measure = measure
        self._measured: dict[str, MeasuredSteps | None] = {}

    def of(self, step: Step, status: Status) -> Forecast:
        """Return the forecast of a step; never fails, what is unknown is None."""
        if status.state == "done":
            return Forecast(seconds=0.0, source="recorded")
        try:
            if step.trained is not None:
                return self._of_training(step)
            if step.stage == "prepare":
                return Forecast(disk_bytes=self._prepared_bytes())
            if step.stage == "evaluate":
                return self._of_evaluation()
        except KDSegmentatorError:  # not prepared yet, or something that the step itself will explain
            return Forecast()
        return Forecast()

    def _of_training(self, step: Step) -> Forecast:
        works = self._works(step)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun; they share this machine's memory
        memory = here * max(training_bytes(work) for work in works)
        disk = sum(_CHECKPOINTS * checkpoint_bytes(work) for work in works)
        forecast = Forecast(memory_bytes=memory, disk_bytes=disk)
        logged = self._from_log(step)
        if logged is not None:
            return replace(forecast, seconds=logged, source="training log")
        measured = [self._steps_of(work, memory) for work in works]
        if any(each is None for each in measured):
            return forecast
        processes = augmenting_processes()
        pairs = zip(works, measured, strict=True)
        total = sum(work.seconds(each, processes=processes) for work, each in pairs if each is not None)
        peaks = [each.peak_bytes for each in measured if each is not None and each.peak_bytes is not None]
        return replace(
            forecast, seconds=total, source="measured steps", memory_bytes=here * max(peaks) if peaks else memory
        )

    def _works(self, step: Step) -> list[TrainingWork]:
        """Return what a step trains: the teacher, or a student after its warm-up."""
        recipe, prepared = self._stages.recipe, self._stages.prepared()
        if step.student is None:
            return [self._work(prepared.plans, 1.0, recipe.settings(recipe.teacher.epochs), method="plain")]
        student = recipe.student(step.student.size)
        alpha = alpha_of(student.size)
        settings = recipe.student_settings(student, student.epochs)
        works = [self._work(prepared.plans, alpha, settings, method=step.student.method)]
        if student.warm_up_epochs and self._stages.warm_up(student.size) != "done":
            warm_up = replace(settings, epochs=student.warm_up_epochs)
            works.insert(0, self._work(prepared.plans, alpha, warm_up, method="plain"))
        return works

    def _work(self, plans: dict[str, Any], alpha: float, settings: TrainingSettings, *, method: Method) -> TrainingWork:
        recipe = self._stages.recipe
        terms = {} if method == "plain" else recipe.methods[method].terms
        name = recipe.dataset.configuration
        scaled = student_plans(plans, name, alpha=alpha, name="forecast", settings=settings)
        raw = self._stages.prepared().raw
        return TrainingWork(
            configuration=resolve_configuration(scaled, name),
            teacher=resolve_configuration(plans, name) if terms else None,
            losses={loss: asdict(term) for loss, term in terms.items()},
            channels=len(raw.description["channel_names"]),
            labels=len(raw.labels),
            batch_size=-(-settings.batch_size // process_number()),  # of this process
            steps=settings.epochs * settings.iterations_per_epoch,
            validation_steps=settings.epochs * settings.validation_iterations,
            precision=settings.precision,
            optimizer=settings.optimizer,
            teachers=len(recipe.teacher_folds()) if terms else 1,
            gradient_checkpointing=settings.gradient_checkpointing,
            mirroring_axes=settings.mirroring_axes,
            augmentation=settings.augmentation,
        )

    def _steps_of(self, work: TrainingWork, memory: int) -> MeasuredSteps | None:
        available = detect_hardware().available_memory
        if not self._measure or (available is not None and memory > available):
            return None
        key = settings_hash(replace(work, steps=0, validation_steps=0))
        if key not in self._measured:
            try:
                self._measured[key] = measure_steps(work)
            except TrainingError:
                self._measured[key] = None
        return self._measured[key]

    def _from_log(self, step: Step) -> float | None:
        """Return the time left of a training that was broken off, from the epochs that it has done."""
        if step.trained is None:
            return None
        recipe = self._stages.recipe
        log = read_curves(step.trained() / f"fold_{recipe.dataset.fold}")
        if log is None or not log.seconds:
            return None
        epochs = recipe.teacher.epochs if step.student is None else recipe.student(step.student.size).epochs
        return max(0, epochs - len(log.epochs)) * median(log.seconds)

    def _of_evaluation(self) -> Forecast:
        scores = read_scores(self._stages.folder / "evaluation" / "scores.csv")
        if not scores:
            return Forecast()
        networks = 1 + len(select_students(self._stages.recipe))
        cases = len(self._stages.held_out_cases())
        done = len({(score.model, score.precision, score.case) for score in scores if score.precision == "float32"})
        each = median(score.seconds for score in scores)
        return Forecast(seconds=max(0, networks * cases - done) * each, source="scores so far")

    def _prepared_bytes(self) -> int:
        """Return the size of all cases, resampled, before compression.

        Where neither teacher nor recipe tells the spacing, it is the median along each axis, as nnU-Net plans it; of
        very anisotropic images nnU-Net may take a finer one along the coarse axis.
        """
        dataset = self._stages.recipe.dataset
        raw = find_dataset(self._stages.workspace.raw, dataset.name)
        grids = [read_header(case.image) for case in raw.cases]
        spacing: Sequence[float] = np.median([grid.spacing for grid in grids], axis=0).tolist()
        if self._stages.given_teacher is not None:
            plans = read_plans(self._stages.given_teacher.folder / "plans.json")
            spacing = resolve_configuration(plans, dataset.configuration)["spacing"]
        elif dataset.spacing is not None:
            spacing = dataset.spacing
        voxels = sum(float(np.prod(grid.size) * np.prod(grid.spacing)) for grid in grids) / float(np.prod(spacing))
        return round((_CHANNEL_BYTES * len(raw.description["channel_names"]) + _LABEL_BYTES) * voxels)


def bytes_text(count: float) -> str:
    """Return a size for people: ``3.2 GB``, ``12 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{math.ceil(count / 1e6)} MB"


def check_machine(step: Step, forecast: Forecast, folder: Path, *, device: str) -> None:
    """Refuse a step that this machine has too little memory or disk for, before hours are lost.

    Args:
        step: the step.
        forecast: what it needs.
        folder: where it writes.
        device: memory is checked for ``cpu`` only.

    Raises:
        InsufficientMemoryError: too little memory.
        TrainingError: too little space on the disk.
    """
    available = detect_hardware().available_memory
    needed = forecast.memory_bytes
    if device == "cpu" and needed is not None and available is not None and needed > available:
        raise InsufficientMemoryError(
            f"{step.name} needs about {bytes_text(needed)} of memory, {bytes_text(available)} are free; close other "
            "programs, lower batch_size in the recipe's training or memory_target_gb in its dataset, or go on on a "
            "larger machine"
        )
    free = shutil.disk_usage(folder).free
    if forecast.disk_bytes is not None and forecast.disk_bytes > free:
        raise TrainingError(
            f"{step.name} will write about {bytes_text(forecast.disk_bytes)}, {bytes_text(free)} are free in "
            f"{folder}; free some space or give another --workspace"
        )

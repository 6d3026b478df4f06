"""How long a step will take, from the epochs and cases that were done, and the memory and disk that it needs."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.dataset import find_dataset, read_header
from distillation.evaluation.scores import read_scores
from distillation.plans import alpha_of, read_plans, resolve_configuration, student_plans
from distillation.run.memory import TrainingWork, checkpoint_bytes, training_bytes
from distillation.students import select_students
from distillation.training_log import duration_text, read_curves
from KDSegmentatorLib.errors import KDSegmentatorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.run.steps import Step
    from distillation.stages import Stages
    from distillation.training_settings import TrainingSettings
    from KDSegmentatorLib.packs.manifest import Method

_CHECKPOINTS = 4
"""Files of a training: final, best, latest, and the one that is being written."""

_CHANNEL_BYTES, _LABEL_BYTES = 4, 2
"""A preprocessed voxel: every channel as float32, and its label in 16 bits, before compression."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a step will take; None is unknown.

    Attributes:
        seconds: wall time.
        source: where the time comes from: ``training log`` or ``scores so far``.
        memory_bytes: largest memory, of all processes on this machine that train together.
        disk_bytes: what it will write; None also for next to nothing.
    """

    seconds: float | None = None
    source: str = ""
    memory_bytes: int | None = None
    disk_bytes: int | None = None


class Forecasts:
    """Makes forecasts; the memory of a network is counted once.

    Args:
        stages: the recipe at work.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._counted: list[tuple[TrainingWork, int, int]] = []

    def of(self, step: Step) -> Forecast:
        """Return the forecast of a step that is not done; never fails, what is unknown is None."""
        try:
            if step.model_folder is not None:
                return self._of_training(step)
            if step.stage == "prepare":
                return Forecast(disk_bytes=self._prepared_bytes())
            if step.stage == "evaluate":
                return self._of_evaluation()
        except KDSegmentatorError:  # not prepared yet, or something that the step itself will explain
            return Forecast()
        return Forecast()

    def _of_training(self, step: Step) -> Forecast:
        counted = [self._count(work) for work in self._works(step)]
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun; they share this machine's memory
        seconds = self._seconds_left(step)
        return Forecast(
            seconds=seconds,
            source="" if seconds is None else "training log",
            memory_bytes=here * max(memory for memory, _ in counted),
            disk_bytes=sum(_CHECKPOINTS * disk for _, disk in counted),
        )

    def _count(self, work: TrainingWork) -> tuple[int, int]:
        for known, memory, disk in self._counted:
            if known == work:
                return memory, disk
        self._counted.append((work, training_bytes(work), checkpoint_bytes(work)))
        return self._counted[-1][1:]

    def _works(self, step: Step) -> list[TrainingWork]:
        """Return what a step trains: the teacher, or a student after its warm-up."""
        recipe, prepared = self._stages.recipe, self._stages.trainings.prepared()
        if step.student is None:
            return [self._work(prepared.plans, 1.0, recipe.settings(recipe.teacher.epochs), method="plain")]
        student = recipe.student(step.student.size)
        alpha = alpha_of(student.size)
        settings = recipe.student_settings(student, student.epochs)
        works = [self._work(prepared.plans, alpha, settings, method=step.student.method)]
        if student.warm_up_epochs and self._stages.trainings.warm_up(student.size) != "done":
            warm_up = replace(settings, epochs=student.warm_up_epochs)
            works.insert(0, self._work(prepared.plans, alpha, warm_up, method="plain"))
        return works

    def _work(self, plans: dict[str, Any], alpha: float, settings: TrainingSettings, *, method: Method) -> TrainingWork:
        recipe = self._stages.recipe
        terms = {} if method == "plain" else recipe.methods[method].terms
        name = recipe.dataset.configuration
        scaled = student_plans(plans, name, alpha=alpha, name="forecast", settings=settings)
        raw = self._stages.trainings.prepared().raw
        processes = int(os.environ.get("WORLD_SIZE", "1"))  # of torchrun; they divide the batch
        return TrainingWork(
            configuration=resolve_configuration(scaled, name),
            teacher=resolve_configuration(plans, name) if terms else None,
            losses={loss: asdict(term) for loss, term in terms.items()},
            channels=len(raw.description["channel_names"]),
            labels=len(raw.labels),
            batch_size=-(-settings.batch_size // processes),
            optimizer=settings.optimizer,
            teachers=len(recipe.teacher_folds()) if terms else 1,
            gradient_checkpointing=settings.gradient_checkpointing,
        )

    def _seconds_left(self, step: Step) -> float | None:
        """Return the time left of a training from the epochs that it has done; None before the first one."""
        if step.model_folder is None:
            return None
        recipe = self._stages.recipe
        log = read_curves(step.model_folder() / f"fold_{recipe.dataset.fold}")
        if log is None or not log.seconds:
            return None
        epochs = recipe.teacher.epochs if step.student is None else recipe.student(step.student.size).epochs
        return max(0, epochs - len(log.epochs)) * median(log.seconds)

    def _of_evaluation(self) -> Forecast:
        scores = read_scores(self._stages.folder / "evaluation" / "scores.csv")
        if not scores:
            return Forecast()
        networks = 1 + len(select_students(self._stages.recipe))
        cases = len(self._stages.trainings.held_out_cases())
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


def describe_forecast(forecast: Forecast) -> str:
    """Return a forecast as a line for people."""
    time = "time known after its first epoch or case"
    if forecast.seconds is not None:
        time = f"about {duration_text(forecast.seconds)} ({forecast.source})"
    parts = [time]
    if forecast.memory_bytes is not None:
        parts.append(f"{bytes_text(forecast.memory_bytes)} of memory")
    if forecast.disk_bytes is not None:
        parts.append(f"{bytes_text(forecast.disk_bytes)} on disk")
    return ", ".join(parts)


def bytes_text(count: float) -> str:
    """Return a size for people: ``3.2 GB``, ``12 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{math.ceil(count / 1e6)} MB"

"""What is checked before hours are spent: recipe, dataset and teacher belong together, memory and disk suffice."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from distillation.dataset import find_dataset
from distillation.plans import read_plans
from distillation.run.forecast import bytes_text
from distillation.training_settings import PLANS_KEY, TrainingSettings
from KDSegmentatorLib.errors import InsufficientMemoryError, TrainingError
from KDSegmentatorLib.machine.hardware import detect_hardware

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distillation.run.forecast import Forecast
    from distillation.run.steps import Step
    from distillation.stages import Stages
    from distillation.teacher import ModelFolder

# torch on Linux and macOS, on Windows, and of CUDA
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad allocation|bad_alloc", re.IGNORECASE
)


def check_before_start(stages: Stages) -> None:
    """Check that the labels of the recipe's pack are the dataset's, and that a given teacher can teach.

    Raises:
        TrainingError: the recipe describes other labels than the dataset has.
        TeacherError: see :func:`load_given_teacher`.
        KDSegmentatorError: the dataset is not complete.
    """
    raw = find_dataset(stages.workspace.raw, stages.recipe.dataset.name)
    described = sorted(label.value for label in stages.recipe.pack.labels)
    present = sorted(value for value in raw.labels.values() if value != 0)
    if described != present:
        raise TrainingError(
            f"the recipe's pack describes the labels {described}, but {raw.folder.name} has {present}; correct the "
            "recipe before anything is trained"
        )
    if stages.given_teacher is not None:
        load_given_teacher(stages)


def short_teacher(stages: Stages) -> str | None:
    """Return a warning where the teacher trains less than a student: it would have little to teach.

    Of a given teacher that is known if it was trained here; stock nnU-Net trains for 250,000 iterations.
    """
    recipe = stages.recipe
    iterations: int | None = recipe.settings(recipe.teacher.epochs).iterations
    if stages.given_teacher is not None:
        plans = read_plans(stages.given_teacher.folder / "plans.json")
        iterations = TrainingSettings.from_plans(plans).iterations if PLANS_KEY in plans else None
    longest = max(recipe.students, key=lambda student: student.warm_up_epochs + student.epochs)
    of_student = (longest.warm_up_epochs + longest.epochs) * recipe.training.iterations_per_epoch
    if iterations is None or iterations >= of_student:
        return None
    return (
        f"the teacher trains for {iterations:,} iterations, the student {longest.size} for {of_student:,}: a teacher "
        "that is no better than its students has nothing to teach them; give it at least as many epochs"
    )


def load_given_teacher(stages: Stages) -> ModelFolder:
    """Load every fold of a given teacher that the recipe takes, as every distilled training will.

    Returns:
        The network of the dataset's fold.

    Raises:
        TeacherError: a fold is missing, damaged or holds code, or was trained for other labels, channels or another
            configuration; see :func:`distillation.teacher.load_teacher_fold`.
        KDSegmentatorError: the dataset is not complete.
    """
    from distillation.teacher import load_teacher_fold

    recipe, source = stages.recipe, stages.trainings.teacher()
    dataset = find_dataset(stages.workspace.raw, recipe.dataset.name).description
    models = {
        fold: load_teacher_fold(
            source.folder, fold, source.checkpoint, dataset=dataset, configuration=recipe.dataset.configuration
        )
        for fold in recipe.teacher_folds()
    }
    return models[recipe.dataset.fold]


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


@contextmanager
def explained_memory(step: Step) -> Iterator[None]:
    """Raise InsufficientMemoryError, with what helps, where torch, CUDA or Python get no more memory in a step."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeErrors, its OutOfMemoryError among them
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        remedy = "close other programs, or go on on a larger machine"
        if step.model_folder is not None:
            remedy = (
                "close other programs, set gradient_checkpointing: true or a smaller batch_size in the recipe's "
                "training, or a smaller memory_target_gb in its dataset"
            )
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InsufficientMemoryError(f"{step.name} ran out of memory ({first}); {remedy}") from error

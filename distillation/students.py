"""Which networks a recipe trains: names, plans and folders of the teacher and of every student."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.launch import model_folder
from distillation.plans import alpha_of, resolve_configuration, student_plans
from distillation.settings import DistillationSettings, TeacherSettings, TrainingSettings
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError
from KDSegmentatorLib.io.files import file_sha256
from KDSegmentatorLib.packs.names import name_part

if TYPE_CHECKING:
    from distillation.launch import Workspace
    from distillation.prepare import PreparedDataset
    from distillation.recipe import Recipe
    from KDSegmentatorLib.packs.manifest import Method

TEACHER_SIZE = "x1"
WARM_UP = "warmup"

_CONTINUED_SEED_OFFSET = 1000  # more than the epochs of any warm-up: every epoch has its own seed


@dataclass(frozen=True, kw_only=True)
class TeacherSource:
    """Where the teacher's weights lie: a model folder and the checkpoint's name in its fold folder."""

    folder: Path
    checkpoint: str = "checkpoint_final.pth"

    def path(self, fold: int) -> Path:
        """Return the checkpoint of a fold."""
        return self.folder / f"fold_{fold}" / self.checkpoint

    def sha256(self, fold: int) -> str:
        """Return the hash of a fold's checkpoint."""
        return file_sha256(self.path(fold))


@dataclass(frozen=True, kw_only=True)
class Student:
    """One student: a size, trained with one method."""

    size: str
    method: Method

    @property
    def title(self) -> str:
        """For people: ``x1/4 logit``."""
        return f"{self.size} {self.method}"


def select_students(recipe: Recipe, size: str | None = None, method: str | None = None) -> tuple[Student, ...]:
    """Return the students of a recipe, all or those of one size, one method or both.

    Raises:
        InvalidSettingsError: the recipe has none that fits.
    """
    students = tuple(
        Student(size=student.size, method=each)
        for student in recipe.students
        for each in student.methods
        if size in (None, student.size) and method in (None, each)
    )
    if not students:
        known = ", ".join(f"{student.size} {each}" for student in recipe.students for each in student.methods)
        raise InvalidSettingsError(f"the recipe has no student {size or ''} {method or ''}; it has: {known}")
    return students


def plans_for_teacher(recipe: Recipe, plans: dict[str, Any]) -> dict[str, Any]:
    """Return the plans that the teacher is trained from.

    Args:
        recipe: length of the training.
        plans: what nnU-Net planned.
    """
    return student_plans(
        plans,
        recipe.dataset.configuration,
        alpha=1.0,
        name=_plans_name(plans, TEACHER_SIZE, "plain"),
        settings=recipe.settings(recipe.teacher.epochs),
    )


def plans_for_warm_up(recipe: Recipe, size: str, plans: dict[str, Any]) -> dict[str, Any]:
    """Return the plans of the plain training that all methods of a size go on from."""
    of_size = recipe.student(size)
    return student_plans(
        plans,
        recipe.dataset.configuration,
        alpha=alpha_of(size),
        name=_plans_name(plans, size, WARM_UP),
        settings=recipe.student_settings(of_size, of_size.warm_up_epochs),
    )


def plans_for_student(
    recipe: Recipe,
    student: Student,
    plans: dict[str, Any],
    teacher: TeacherSource | None,
    warm_up: Path | None = None,
    soft_labels: Path | None = None,
) -> dict[str, Any]:
    """Return the plans that a student is trained from.

    Args:
        recipe: length of the training and settings of the method.
        student: size and method.
        plans: the teacher's plans.
        teacher: needed unless the method is ``plain``.
        warm_up: model folder of the size's warm-up (:func:`warm_up_folder`); None if the recipe has none.
        soft_labels: folder of the stored probabilities, for methods with ``soft_labels``.

    Raises:
        TrainingError: the method needs a teacher and there is none.
    """
    of_size = recipe.student(student.size)
    settings = _continued(recipe.student_settings(of_size, of_size.epochs), recipe, student.size, warm_up)
    if student.method != "plain":
        settings = _with_soft_labels(settings, recipe, student.method, soft_labels)
    if student.method != "plain" and recipe.methods[student.method].terms:
        settings = _with_teacher(settings, recipe, student.method, teacher)
    return student_plans(
        plans,
        recipe.dataset.configuration,
        alpha=alpha_of(student.size),
        name=_plans_name(plans, student.size, student.method),
        settings=settings,
    )


def teacher_folder(workspace: Workspace, recipe: Recipe, plans: dict[str, Any]) -> Path:
    """Return where the teacher of a recipe is trained."""
    name = _plans_name(plans, TEACHER_SIZE, "plain")
    return model_folder(workspace, recipe.dataset.name, "plain", name, recipe.dataset.configuration)


def student_folder(workspace: Workspace, recipe: Recipe, student: Student, plans: dict[str, Any]) -> Path:
    """Return where a student of a recipe is trained."""
    name = _plans_name(plans, student.size, student.method)
    return model_folder(workspace, recipe.dataset.name, student.method, name, recipe.dataset.configuration)


def soft_label_folder(prepared: PreparedDataset, configuration: str) -> Path:
    """Return where the stored probabilities of a prepared dataset lie."""
    identifier = resolve_configuration(prepared.plans, configuration)["data_identifier"]
    return prepared.folder / f"{identifier}_soft_labels"


def warm_up_folder(workspace: Workspace, recipe: Recipe, size: str, plans: dict[str, Any]) -> Path | None:
    """Return where a size is warmed up; None if the recipe has no warm-up for it."""
    if not recipe.student(size).warm_up_epochs:
        return None
    name = _plans_name(plans, size, WARM_UP)
    return model_folder(workspace, recipe.dataset.name, "plain", name, recipe.dataset.configuration)


def _continued(settings: TrainingSettings, recipe: Recipe, size: str, warm_up: Path | None) -> TrainingSettings:
    """Return settings that go on from a warm-up's weights, with other random numbers than the warm-up's."""
    if warm_up is None:
        return settings
    return replace(
        settings,
        initial_learning_rate=recipe.student(size).learning_rate_factor * recipe.training.continued_learning_rate,
        seed=settings.seed + _CONTINUED_SEED_OFFSET,
        initial_checkpoint=str((warm_up / f"fold_{recipe.dataset.fold}" / "checkpoint_final.pth").resolve()),
        initial_iterations=recipe.settings(recipe.student(size).warm_up_epochs).iterations,
    )


def _with_soft_labels(
    settings: TrainingSettings, recipe: Recipe, method: Method, folder: Path | None
) -> TrainingSettings:
    if method not in recipe.methods:
        raise InvalidSettingsError(f"the recipe's 'methods' does not set '{method}'")
    soft = recipe.methods[method].soft_labels
    if soft is None:
        return settings
    place = "" if folder is None else str(folder.resolve())
    return replace(settings, soft_labels=replace(soft, method=method, folder=place))


def _with_teacher(
    settings: TrainingSettings, recipe: Recipe, method: Method, teacher: TeacherSource | None
) -> TrainingSettings:
    folds = recipe.teacher_folds()
    for fold in folds:
        if teacher is None or not teacher.path(fold).is_file():
            where = "" if teacher is None else f" ({teacher.path(fold)} is missing)"
            raise TrainingError(
                f"there is no trained teacher to distil from{where}; run 'kdseg-distill train-teacher' first or give "
                "--teacher"
            )
    assert teacher is not None  # noqa: S101 - there is at least one fold
    distillation = DistillationSettings(
        method=method,
        teacher=TeacherSettings(
            folder=str(teacher.folder.resolve()),
            folds=folds,
            checkpoint=teacher.checkpoint,
            sha256=tuple(teacher.sha256(fold) for fold in folds),
            accept_leakage=recipe.teacher.accept_leakage,
        ),
        losses={name: asdict(term) for name, term in recipe.methods[method].terms.items()},
    )
    return replace(settings, distillation=distillation)


def _plans_name(plans: dict[str, Any], size: str, method: str) -> str:
    """Return for example ``nnUNetPlans_x1_4_logit``."""
    stock = str(plans["plans_name"]).removesuffix(f"_{TEACHER_SIZE}_plain")
    return f"{stock}_{name_part(size)}_{method}"

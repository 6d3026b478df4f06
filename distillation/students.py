"""Which networks a recipe trains: names, plans and folders of the teacher and of every student."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.launch import model_folder
from distillation.plans import alpha_of, resolve_configuration, student_plans
from distillation.training_settings import DistillationSettings, TeacherSettings, TrainingSettings
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError
from KDSegmentatorLib.io.files import file_sha256
from KDSegmentatorLib.packs.names import MANIFEST_NAME, name_part
from KDSegmentatorLib.packs.pack import open_pack

if TYPE_CHECKING:
    from distillation.launch import Workspace
    from distillation.prepare import PreparedDataset
    from distillation.recipe import Recipe, StudentRecipe
    from KDSegmentatorLib.packs.manifest import Manifest, Method

TEACHER_SIZE = "x1"
WARM_UP = "warmup"

CONTINUED_SEED_OFFSET = 1000
"""Added to a recipe's seed in trainings that go on from a warm-up, so that they see other batches than it did."""


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


def plans_for_warm_up(
    recipe: Recipe, size: str, plans: dict[str, Any], start: Manifest | None = None
) -> dict[str, Any]:
    """Return the plans of the plain training that all methods of a size go on from.

    Args:
        recipe: length of the training.
        size: of the student.
        plans: the teacher's plans.
        start: manifest of the pack that the recipe starts from, where that itself is not there any more.
    """
    of_size = recipe.student(size)
    return student_plans(
        plans,
        recipe.dataset.configuration,
        alpha=alpha_of(size),
        name=_plans_name(plans, size, WARM_UP),
        settings=_started(recipe.student_settings(of_size, of_size.warm_up_epochs), start or start_manifest(of_size)),
    )


def plans_for_student(
    recipe: Recipe,
    student: Student,
    plans: dict[str, Any],
    teacher: TeacherSource | None,
    warm_up: Path | None = None,
    soft_labels: Path | None = None,
    start: Manifest | None = None,
) -> dict[str, Any]:
    """Return the plans that a student is trained from.

    Args:
        recipe: length of the training and settings of the method.
        student: size and method.
        plans: the teacher's plans.
        teacher: needed unless the method is ``plain``.
        warm_up: model folder of the size's warm-up (:func:`warm_up_folder`); None if the recipe has none.
        soft_labels: folder of the stored probabilities, for methods with ``soft_labels``.
        start: manifest of the pack that the recipe starts from, where that itself is not there any more.

    Raises:
        TrainingError: the method needs a teacher and there is none.
    """
    of_size = recipe.student(student.size)
    settings = _started(recipe.student_settings(of_size, of_size.epochs), start or start_manifest(of_size))
    settings = _continued(settings, recipe, student.size, warm_up)
    if student.method != "plain":
        settings = _with_soft_labels(settings, recipe, student.method, teacher, soft_labels)
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
        seed=settings.seed + CONTINUED_SEED_OFFSET,
        initial_checkpoint=str((warm_up / f"fold_{recipe.dataset.fold}" / "checkpoint_final.pth").resolve()),
        initial_sha256=None,
        initial_iterations=settings.initial_iterations
        + recipe.settings(recipe.student(size).warm_up_epochs).iterations,
    )


def start_manifest(student: StudentRecipe) -> Manifest | None:
    """Return the manifest of the pack that a student starts from; None if from none.

    Raises:
        InvalidSettingsError: the recipe says that it is another one.
        KDSegmentatorError: it is missing or damaged.
    """
    if student.start is None:
        return None
    manifest = open_pack(student.start).manifest
    sha256 = manifest.provenance.checkpoint_sha256
    if student.start_sha256 not in (None, sha256):
        raise InvalidSettingsError(
            f"{student.size} starts from a pack of the checkpoint {student.start_sha256}, but {student.start} is "
            f"version {manifest.version}, of {sha256}: the family has been trained further since. Name the earlier "
            "pack as 'start' (git keeps those that were shipped), or take out start_sha256 to go on from this one"
        )
    return manifest


def _started(settings: TrainingSettings, start: Manifest | None) -> TrainingSettings:
    """Return settings that know the pack that they start from, if they do."""
    if start is None:
        return settings
    made_by = start.provenance
    return replace(settings, initial_sha256=made_by.checkpoint_sha256, initial_iterations=made_by.iterations or 0)


def teaching_axes(recipe: Recipe) -> tuple[int, ...]:
    """Return the array axes that soft labels are averaged over."""
    return recipe.training.mirroring_axes if recipe.teaching.mirroring else ()


def teaching_hashes(recipe: Recipe, teacher: TeacherSource | None) -> tuple[str, ...] | None:
    """Return the hashes of the checkpoints that soft labels come from, or None where one of them is not there.

    Args:
        recipe: its ``teaching`` names packs and model folders; without any, the teacher labels.
        teacher: the recipe's own.

    Raises:
        KDSegmentatorError: a pack is damaged.
    """
    folders = [Path(each) for each in recipe.teaching.networks] or ([] if teacher is None else [teacher.folder])
    checkpoint = recipe.teacher.checkpoint if recipe.teaching.networks or teacher is None else teacher.checkpoint
    hashes = []
    for folder in folders:
        if (folder / MANIFEST_NAME).is_file():
            hashes.append(open_pack(folder).manifest.provenance.checkpoint_sha256)
            continue
        source = TeacherSource(folder=folder, checkpoint=checkpoint)
        if not all(source.path(fold).is_file() for fold in recipe.teacher_folds()):
            return None
        hashes += [source.sha256(fold) for fold in recipe.teacher_folds()]
    return tuple(hashes) or None


def _with_soft_labels(
    settings: TrainingSettings, recipe: Recipe, method: Method, teacher: TeacherSource | None, folder: Path | None
) -> TrainingSettings:
    if method not in recipe.methods:
        raise InvalidSettingsError(f"the recipe's 'methods' does not set '{method}'")
    soft = recipe.methods[method].soft_labels
    if soft is None:
        return settings
    place = "" if folder is None else str(folder.resolve())
    named = replace(soft, method=method, folder=place)
    if not soft.hard:
        hashes = teaching_hashes(recipe, teacher)
        named = replace(named, teachers=hashes, mirroring_axes=None if hashes is None else teaching_axes(recipe))
    return replace(settings, soft_labels=named)


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

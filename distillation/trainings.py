"""The trainings of a recipe: its data, its teacher, soft labels and students, every one resumable."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.dataset import Case, find_dataset
from distillation.launch import method_of, model_folder, train_side_by_side, training_progress
from distillation.plans import read_plans
from distillation.prepare import PreparedDataset, find_prepared, prepare
from distillation.source_files import changed_sources, some
from distillation.splits import SPLITS_NAME, grouped, read_splits
from distillation.students import (
    TEACHER_SIZE,
    Student,
    TeacherSource,
    plans_for_student,
    plans_for_teacher,
    plans_for_warm_up,
    soft_label_folder,
    start_manifest,
    student_folder,
    teacher_folder,
    teaching_axes,
    teaching_hashes,
    warm_up_folder,
)
from distillation.training_settings import TrainingSettings
from KDSegmentatorLib.errors import KDSegmentatorError, TrainingError
from KDSegmentatorLib.io.files import atomic_output, write_json
from KDSegmentatorLib.packs.manifest import Manifest, Method
from KDSegmentatorLib.packs.manifest_file import read_manifest
from KDSegmentatorLib.packs.names import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distillation.launch import Progress, Workspace
    from distillation.recipe import Recipe


_SPLIT_OF_TRAINING = "split.json"
"""In a fold's folder: who trained and who was held out, as nnU-Net's split said when it was begun."""

_START_OF_TRAINING = "start_manifest.json"
"""In a fold's folder: the manifest of the pack that training started from, which may be replaced afterwards."""


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """What a recipe trains in a workspace; work that is there is skipped.

    Attributes:
        recipe: what to do.
        workspace: nnU-Net's folders.
        given_teacher: an existing teacher; None takes the one that :meth:`train_teacher` trains.
    """

    recipe: Recipe
    workspace: Workspace
    given_teacher: TeacherSource | None = None

    def prepare(self) -> PreparedDataset:
        """Fingerprint, plan and preprocess the dataset."""
        return prepare(self.workspace, self.recipe.dataset, teacher_plans=self._given_plans())

    def prepared(self) -> PreparedDataset:
        """Return the prepared dataset.

        Raises:
            TrainingError: it is not prepared, or files of the dataset have changed since.
        """
        raw = find_dataset(self.workspace.raw, self.recipe.dataset.name)
        changed = changed_sources(raw, self.workspace.preprocessed / self.recipe.dataset.name)
        if changed:
            raise TrainingError(
                f"the dataset was prepared from other files; changed since: {some(changed)}. Put them back, or run "
                "'kdseg-distill prepare' again"
            )
        found = find_prepared(self.workspace, self.recipe.dataset, raw, self._given_plans())
        if found is None:
            raise TrainingError(
                f"{self.recipe.dataset.name} is not prepared in {self.workspace.preprocessed}; run "
                "'kdseg-distill prepare' first"
            )
        return found

    def preparation(self) -> Progress:
        """Return whether the dataset is prepared as the recipe says."""
        try:
            self.prepared()
        except KDSegmentatorError:  # or in another way, which the stage itself explains
            return "new"
        return "done"

    def teacher(self) -> TeacherSource:
        """Return the given teacher, or the one that this recipe trains (trained or not)."""
        if self.given_teacher is not None:
            return self.given_teacher
        return TeacherSource(folder=teacher_folder(self.workspace, self.recipe, self.prepared().plans))

    def train_teacher(self, device: str = "cpu") -> TeacherSource:
        """Train the teacher; a given one is taken as it is."""
        if self.given_teacher is None:
            self._train([self._plans_of(None)], device)
        return self.teacher()

    def teach(self, device: str = "cpu", progress: Callable[[int, int], None] | None = None) -> Path:
        """Write the soft labels of the training cases and return their folder; what is there is kept."""
        from distillation.teaching import write_soft_labels

        return write_soft_labels(self.recipe, self.prepared(), self.teacher(), device=device, progress=progress)

    def teaching(self) -> Progress:
        """Return how far the soft labels of the training cases are; those of other teachers than wanted count as none.

        Where the teachers are not there any more, what they left is taken for theirs.
        """
        from distillation.soft_labels import check_soft_labels

        try:
            folder = self._soft_label_folder()
            check_soft_labels(folder, self._soft_labels_index())
            missing = [name for name in self._split()["train"] if not (folder / f"{name}.npy").is_file()]
        except (KDSegmentatorError, KeyError):  # not prepared, or nothing is there
            return "new"
        return "started" if missing else "done"

    def _soft_label_folder(self) -> Path:
        return soft_label_folder(self.prepared(), self.recipe.dataset.configuration)

    def _soft_labels_index(self) -> dict[str, Any]:
        """Return what the index of the soft labels has to say."""
        from distillation.teaching import soft_labels_about

        index: dict[str, Any] = {**soft_labels_about(self.recipe, self.prepared())}
        hashes = teaching_hashes(self.recipe, self.teacher())
        if hashes is not None:
            index |= {"teachers": list(hashes), "mirroring_axes": list(teaching_axes(self.recipe))}
        return index

    def train_students(self, students: Sequence[Student], device: str = "cpu") -> list[Path]:
        """Train students of one size, with its warm-up if it has one, and return their model folders.

        They see the same batches, side by side, so that differences between methods are not those of luck. A student
        with a teacher that runs beside it takes many times as long as the others, and trains by itself, on the same
        batches.
        """
        size = students[0].size
        methods = [student.method for student in students if student.method in self.recipe.methods]
        wanted = [self._plans_of(student) for student in students]
        if self.recipe.student(size).warm_up_epochs:
            self._train([self._plans_of_warm_up(size)], device)
        alone = [TrainingSettings.from_plans(plans).distillation is not None for plans in wanted]
        if self.teaching() != "done" and any(self.recipe.methods[m].needs_soft_labels for m in methods):
            from distillation.soft_labels import check_soft_labels

            check_soft_labels(self._soft_label_folder(), self._soft_labels_index())
            raise TrainingError("some training cases have no soft labels yet; run 'kdseg-distill teach' first")
        together = [plans for plans, by_itself in zip(wanted, alone, strict=True) if not by_itself]
        if together:
            self._train(together, device)
        for plans, by_itself in zip(wanted, alone, strict=True):
            if by_itself:
                self._train([plans], device)
        return [self._fold_folder(plans).parent for plans in wanted]

    def training(self, student: Student | None) -> Progress:
        """Return how far a student, or the teacher for None, is trained with the recipe's settings."""
        try:
            plans = self._plans_of(student)
            return self._progress(plans) if self._same_split(plans) else "new"
        except KDSegmentatorError:  # not prepared, or no teacher yet
            return "new"

    def warm_up(self, size: str) -> Progress:
        """Return how far the warm-up of a size is.

        Raises:
            TrainingError: the dataset is not prepared.
        """
        return self._progress(self._plans_of_warm_up(size))

    def source(self, size: str, method: Method) -> TeacherSource:
        """Return where a network's weights lie, or will lie when it is trained."""
        if size == TEACHER_SIZE:
            return self.teacher()
        student = Student(size=size, method=method)
        return TeacherSource(folder=student_folder(self.workspace, self.recipe, student, self.prepared().plans))

    def held_out_cases(self) -> list[Case]:
        """Return the cases that neither teacher nor students were trained on."""
        prepared = self.prepared()
        return [prepared.raw.case(name) for name in prepared.held_out_cases(self.recipe.dataset.fold)]

    def subjects(self) -> dict[str, str]:
        """Return the subject of each case: the first case of its group."""
        units = grouped([case.name for case in self.prepared().raw.cases], self.recipe.dataset.groups)
        return {name: unit[0] for unit in units for name in unit}

    def _split(self) -> dict[str, list[str]]:
        """Return who trains and who is held out; the file may be somebody's own."""
        fold = self.recipe.dataset.fold
        splits = read_splits(self.workspace.preprocessed / self.recipe.dataset.name / SPLITS_NAME)
        return {half: sorted(names) for half, names in splits[fold].items()} if fold < len(splits) else {}

    def _same_split(self, plans: dict[str, Any]) -> bool:
        """Return whether a training was begun with the split as it is; True where it does not say."""
        try:
            known = json.loads((self._fold_folder(plans) / _SPLIT_OF_TRAINING).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return True
        return bool(known == self._split())

    def started_from(self, size: str, method: Method) -> Manifest | None:
        """Return the manifest of the pack that a trained network, or its warm-up, started from; None if from none.

        Raises:
            KDSegmentatorError: the training is of an earlier version, which did not keep it, and the recipe's pack is
                not the one; or a file is damaged.
        """
        if size == TEACHER_SIZE:
            return None
        kept = self._kept_start(Student(size=size, method=method))
        return kept or start_manifest(self.recipe.student(size))

    def _kept_start(self, student: Student) -> Manifest | None:
        """Return the manifest that was copied when a student's training, or its warm-up, was begun."""
        folder = self._warm_up_folder(student.size)
        if folder is None:
            folder = student_folder(self.workspace, self.recipe, student, self.prepared().plans)
        path = folder / f"fold_{self.recipe.dataset.fold}" / _START_OF_TRAINING
        return read_manifest(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None

    def _start(self, student: Student) -> Manifest | None:
        """Return what a student starts from: the pack that is kept, if it is the recipe's, else the one that is there.

        So a training stays done where its result was shipped in place of the pack that it started from.

        Raises:
            KDSegmentatorError: there is another pack than the recipe's, or none.
        """
        of_size = self.recipe.student(student.size)
        kept = self._kept_start(student) if of_size.start_sha256 is not None else None
        if kept is not None and kept.provenance.checkpoint_sha256 == of_size.start_sha256:
            return kept
        return start_manifest(of_size)

    def _warm_up_folder(self, size: str) -> Path | None:
        return warm_up_folder(self.workspace, self.recipe, size, self.prepared().plans)

    def _fold_folder(self, plans: dict[str, Any]) -> Path:
        dataset = self.recipe.dataset
        folder = model_folder(
            self.workspace, dataset.name, method_of(plans), plans["plans_name"], dataset.configuration
        )
        return folder / f"fold_{dataset.fold}"

    def _train(self, networks: Sequence[dict[str, Any]], device: str) -> None:
        dataset = self.recipe.dataset
        for plans in networks:
            folder = self._fold_folder(plans)
            begun = any(folder.glob("checkpoint_*.pth"))
            if begun and not self._same_split(plans):
                raise TrainingError(
                    f"{folder} was trained with another split than {self.workspace.preprocessed / dataset.name}/"
                    f"{SPLITS_NAME}. No training is thrown away: put the split back, or rename {folder.parent} to "
                    "train again"
                )
            if not begun and os.environ.get("RANK", "0") == "0":  # of torchrun
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / _SPLIT_OF_TRAINING, self._split())
                _keep_start(plans, folder)
        train_side_by_side(
            self.workspace,
            dataset=dataset.name,
            plans=networks,
            configuration=dataset.configuration,
            fold=dataset.fold,
            device=device,
        )

    def _progress(self, plans: dict[str, Any]) -> Progress:
        dataset = self.recipe.dataset
        return training_progress(
            self.workspace, dataset=dataset.name, plans=plans, configuration=dataset.configuration, fold=dataset.fold
        )

    def _plans_of(self, student: Student | None) -> dict[str, Any]:
        """Return the plans that a student, or the teacher for None, is trained from."""
        prepared, dataset = self.prepared(), self.recipe.dataset
        plans = prepared.plans
        if student is None:
            return plans_for_teacher(self.recipe, plans)
        return plans_for_student(
            self.recipe,
            student,
            plans,
            self.teacher(),
            self._warm_up_folder(student.size),
            soft_label_folder(prepared, dataset.configuration),
            self._start(student),
        )

    def _plans_of_warm_up(self, size: str) -> dict[str, Any]:
        start = self._start(Student(size=size, method="plain"))
        return plans_for_warm_up(self.recipe, size, self.prepared().plans, start)

    def _given_plans(self) -> dict[str, Any] | None:
        return None if self.given_teacher is None else read_plans(self.given_teacher.folder / "plans.json")


def _keep_start(plans: dict[str, Any], folder: Path) -> None:
    """Copy the manifest of the pack that a training starts from, if it does, into its fold's folder."""
    start = TrainingSettings.from_plans(plans).initial_checkpoint
    if start is not None and Path(start).is_dir():
        with atomic_output(folder / _START_OF_TRAINING) as temporary:
            temporary.write_bytes((Path(start) / MANIFEST_NAME).read_bytes())

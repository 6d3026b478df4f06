"""The stages of a recipe, one function each, every one resumable and skipped when its work is there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from distillation.dataset import Case, check_grids, find_dataset
from distillation.files import write_json
from distillation.launch import method_of, model_folder, train_side_by_side, training_progress
from distillation.plans import read_plans, resolve_configuration
from distillation.prepare import PreparedDataset, find_prepared, prepare
from distillation.settings import TrainingSettings
from distillation.source_files import changed_sources, some
from distillation.splits import SPLITS_NAME, grouped, read_splits
from distillation.students import (
    TEACHER_SIZE,
    Student,
    TeacherSource,
    plans_for_student,
    plans_for_teacher,
    plans_for_warm_up,
    select_students,
    soft_label_folder,
    student_folder,
    teacher_folder,
    warm_up_folder,
)
from KDSegmentatorLib.errors import ExportError, InvalidSettingsError, KDSegmentatorError, TrainingError
from KDSegmentatorLib.io.files import atomic_output, file_sha256
from KDSegmentatorLib.packs.manifest import Manifest, Method
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.pack import StudentPack, open_pack, verify_pack
from KDSegmentatorLib.packs.rules import divisor, pack_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from distillation.evaluation.family import FamilyProgress, FamilyResult, Member
    from distillation.export.network import Agreement, Storage
    from distillation.launch import Progress, Workspace
    from distillation.recipe import Recipe

    ExportReport = Callable[[str, Agreement], None]
    """Called after an export with the model's name and how well it agrees with torch."""


CALIBRATION_WINDOWS = 50
"""Windows that a network is quantised with; more of them move the ranges by little."""

_SPLIT_OF_TRAINING = "split.json"
"""In a fold's folder: who trained and who was held out, as nnU-Net's split said when it was begun."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A recipe at work in a workspace.

    Attributes:
        recipe: what to do.
        workspace: nnU-Net's folders.
        folder: where packs (``packs/<method>/<id>``, or ``packs-float32/...`` for that storage) and tables
            (``evaluation``) and networks in int8 (``int8``) go.
        given_teacher: an existing teacher; None takes the one that :meth:`train_teacher` trains.
    """

    recipe: Recipe
    workspace: Workspace
    folder: Path
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
        """Return how far the soft labels of the training cases are."""
        try:
            folder = soft_label_folder(self.prepared(), self.recipe.dataset.configuration)
            missing = [name for name in self._split()["train"] if not (folder / f"{name}.npy").is_file()]
        except (KDSegmentatorError, KeyError):  # not prepared
            return "new"
        return "started" if missing and folder.is_dir() else "new" if missing else "done"

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
            self._train([plans_for_warm_up(self.recipe, size, self.prepared().plans)], device)
        alone = [TrainingSettings.from_plans(plans).distillation is not None for plans in wanted]
        if self.teaching() != "done" and any(self.recipe.methods[m].needs_soft_labels for m in methods):
            raise TrainingError("the training cases have no soft labels yet; run 'kdseg-distill teach' first")
        together = [plans for plans, by_itself in zip(wanted, alone, strict=True) if not by_itself]
        if together:
            self._train(together, device)
        for plans, by_itself in zip(wanted, alone, strict=True):
            if by_itself:
                self._train([plans], device)
        return [self._fold_folder(plans).parent for plans in wanted]

    def preparation(self) -> Progress:
        """Return whether the dataset is prepared as the recipe says."""
        try:
            self.prepared()
        except KDSegmentatorError:  # or in another way, which the stage itself explains
            return "new"
        return "done"

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
        return self._progress(plans_for_warm_up(self.recipe, size, self.prepared().plans))

    def evaluation(self, storage: Storage, calibration_windows: int) -> Progress:
        """Return how far the evaluation of all networks is, with the checkpoints and settings as they are now."""
        from distillation.evaluation.scores import pack_hash

        folder = self.folder / "evaluation"
        begun: Progress = "started" if (folder / "scores.csv").is_file() else "new"
        try:
            packs = self._all_present(storage)
            content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
            about = content["about"]
            same = (
                about["pack_hashes"] == {_model_name(pack): pack_hash(pack) for pack in packs}
                and about["calibration_windows"] == calibration_windows
                and (content["dataset"], content["split"]) == (self.recipe.dataset.title, self.recipe.held_out_text())
                and content["surface"] == asdict(self.recipe.evaluation)
                and content["subjects"].keys() == {case.name for case in self.held_out_cases()}
            )
        except (KDSegmentatorError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return begun
        complete = all(pack.manifest.evaluation is not None for pack in packs)
        return "done" if same and complete and (folder / "efficiency.json").is_file() else begun

    def exported(self, storage: Storage, output: Path, bundles: Path | None) -> Progress:
        """Return whether the packs to be shipped, and their MONAI bundles, are those of the networks as they are."""
        from distillation.export.monai_bundle import bundle_folder

        try:
            packs = [pack for pack in self._all_present(storage) if self._is_shipped(pack)]
            for pack in packs:
                shipped = _open_if_there(output / pack.manifest.id)
                if shipped is None or shipped.manifest_sha256 != pack.manifest_sha256:
                    return "new"
                if bundles is None:
                    continue
                made = bundle_folder(self.recipe.pack.task, pack.manifest.size, bundles) / "configs" / "metadata.json"
                source = self.source(pack.manifest.size, pack.manifest.provenance.method)
                if made.stat().st_mtime < source.path(self.recipe.dataset.fold).stat().st_mtime:
                    return "new"
        except (KDSegmentatorError, OSError):
            return "new"
        return "done"

    def reported(self, storage: Storage) -> Progress:
        """Return whether the report is of the evaluation as it is."""
        try:
            self._all_present(storage)
            evaluated = (self.folder / "evaluation" / "evaluation.json").stat().st_mtime
            names = ("report.html", "report.md")
            newer = all((self.folder / "report" / name).stat().st_mtime >= evaluated for name in names)
        except (KDSegmentatorError, OSError):
            return "new"
        return "done" if newer else "new"

    def teacher_pack(self, storage: Storage = "float16", exported: ExportReport | None = None) -> StudentPack:
        """Return the teacher's pack, exported if there is none or it is out of date."""
        return self._pack(TEACHER_SIZE, "teacher", storage, exported)

    def student_pack(
        self, student: Student, storage: Storage = "float16", exported: ExportReport | None = None
    ) -> StudentPack:
        """Return a student's pack, exported if there is none or it is out of date."""
        return self._pack(student.size, student.method, storage, exported)

    def packs_in(self, folder: Path) -> list[StudentPack]:
        """Return the packs of this recipe's task in a folder, one folder each, the largest first.

        Raises:
            InvalidSettingsError: there are none.
            PackError: one is damaged.
            ManifestError: its manifest is not valid.
        """
        # hidden ones are not finished, or about to be deleted
        packs = [open_pack(path.parent) for path in folder.glob(f"[!.]*/{MANIFEST_NAME}")]
        packs = [pack for pack in packs if pack.manifest.task == self.recipe.pack.task]
        if not packs:
            raise InvalidSettingsError(f"{folder} holds no pack of the task {self.recipe.pack.task}")
        for pack in packs:
            verify_pack(pack)
        return sorted(packs, key=lambda pack: divisor(pack.manifest.size))

    def held_out_cases(self) -> list[Case]:
        """Return the cases that neither teacher nor students were trained on."""
        prepared = self.prepared()
        return [prepared.raw.case(name) for name in prepared.held_out_cases(self.recipe.dataset.fold)]

    def evaluate(
        self,
        packs: Sequence[StudentPack],
        *,
        mirroring: bool = False,
        threads: int | None = None,
        calibration_windows: int | None = CALIBRATION_WINDOWS,
        quantizing: Callable[[str], None] | None = None,
        progress: FamilyProgress | None = None,
    ) -> FamilyResult:
        """Evaluate packs on the held-out cases; see :func:`distillation.evaluation.family.evaluate_family`.

        Args:
            packs: the teacher first.
            mirroring: average over mirrored windows.
            threads: CPU threads of the engine.
            calibration_windows: windows of training cases that networks are quantised to int8 with; 0 for no int8;
                None for the packs' own networks in int8, which needs no checkpoint.
            quantizing: called with a model's name before it is quantised, which may take minutes.
            progress: called after every case.

        Raises:
            ExportError: NNCF, which quantises, is not installed or fails.
            KDSegmentatorError: a case or a pack is not usable.
        """
        from distillation.evaluation.family import Member, evaluate_family
        from distillation.evaluation.reduced_precision import missing_for

        members = [Member(pack=pack) for pack in packs]
        if calibration_windows is None:
            members = [replace(member, int8_body=_own_int8_body(member.pack)) for member in members]
        elif calibration_windows > 0 and not mirroring and missing_for("int8") is None:
            members = [
                replace(member, int8_body=self._int8_body(member, calibration_windows, quantizing))
                for member in members
            ]
        return evaluate_family(
            members,
            self.held_out_cases(),
            dataset=self.recipe.dataset.title,
            split=self.recipe.held_out_text(),
            into=self.folder / "evaluation",
            surface=self.recipe.evaluation,
            about={**self._about(), "calibration_windows": calibration_windows},
            subjects=self._subjects(),
            mirroring=mirroring,
            threads=threads,
            progress=progress,
        )

    def evaluate_outside(
        self,
        packs: Sequence[StudentPack],
        folder: Path,
        *,
        whole: bool = False,
        mirroring: bool = False,
        threads: int | None = None,
        progress: FamilyProgress | None = None,
    ) -> FamilyResult:
        """Evaluate packs on cases that nobody trained on, in ``tests/NAME``; the packs stay as they are.

        Args:
            packs: the teacher first.
            folder: images and references (:func:`distillation.evaluation.outside_cases.read_outside_cases`).
            whole: the images are whole scans: the installed pack that finds the region is run first.
            mirroring: average over mirrored windows.
            threads: CPU threads of the engine.
            progress: called after every case.

        Raises:
            KDSegmentatorError: the folder, a case or a pack is not usable.
        """
        from distillation.evaluation.family import Member, evaluate_family
        from distillation.evaluation.outside_cases import read_outside_cases
        from distillation.evaluation.scores import WholeScans

        scans = WholeScans(packs[0], threads=threads) if whole else None
        found = read_outside_cases(folder, packs[0].manifest.labels)
        about = self._about()
        names = {value: name for value, name in about["labels"].items() if value in found.labels}
        return evaluate_family(
            [Member(pack=pack) for pack in packs],
            found.cases,
            dataset=found.name,
            split=f"{'whole scans' if whole else 'cases'} from outside, which no network was trained on",
            into=self.test_folder(folder, whole=whole),
            surface=self.recipe.evaluation,
            about={
                **about,
                "title": f"{self.recipe.pack.title}: {found.name}{' (whole scans)' if whole else ''}",
                "labels": names,
            },
            labels=found.labels,
            whole=scans,
            outside=True,
            mirroring=mirroring,
            threads=threads,
            progress=progress,
        )

    def test_folder(self, folder: Path, *, whole: bool) -> Path:
        """Return where the evaluation on the cases of a folder from outside lies."""
        return self.folder / "tests" / f"{folder.resolve().name}{'-whole' if whole else ''}"

    def _about(self) -> dict[str, Any]:
        """Return what evaluations say about the recipe."""
        return {
            "task": self.recipe.pack.task,
            "title": self.recipe.pack.title,
            "seed": self.recipe.training.seed,
            "labels": {label.value: label.name for label in self.recipe.pack.labels},
        }

    def bundle(self, size: str, method: Method, into: Path) -> Path:
        """Write a network as a MONAI bundle and return its folder; an earlier one there is replaced.

        Args:
            size: ``x1`` for the teacher.
            method: ``teacher``, or the student's.
            into: folder for the bundle's folder.
        """
        from distillation.export.monai_bundle import export_bundle
        from distillation.teacher import load_model_folder

        source = self.source(size, method)
        model = load_model_folder(source.folder, self.recipe.dataset.fold, source.checkpoint)
        codes = check_grids(self.prepared().raw)
        return export_bundle(model, size=size, axis_codes=codes, recipe=self.recipe.pack, into=into)

    def measure_efficiency(self, packs: Sequence[StudentPack], *, threads: int | None = None) -> Path:
        """Count and measure what every network costs, and write ``evaluation/efficiency.json``.

        Args:
            packs: the teacher first.
            threads: CPU threads of the engine.
        """
        from distillation.evaluation.efficiency import measure_family, write_efficiency

        def configuration(pack: StudentPack) -> dict[str, Any]:
            manifest = pack.manifest
            folder = self.source(manifest.size, manifest.provenance.method).folder
            return resolve_configuration(read_plans(folder / "plans.json"), self.recipe.dataset.configuration)

        rows = measure_family([(pack, configuration(pack)) for pack in packs], self.held_out_cases(), threads=threads)
        path = self.folder / "evaluation" / "efficiency.json"
        write_efficiency(path, rows)
        return path

    def _subjects(self) -> dict[str, str]:
        """Return the subject of each case: the first case of its group."""
        units = grouped([case.name for case in self.prepared().raw.cases], self.recipe.dataset.groups)
        return {name: unit[0] for unit in units for name in unit}

    def _int8_body(self, member: Member, windows: int, quantizing: Callable[[str], None] | None) -> bytes:
        """Return a pack's network in int8; quantised once for each checkpoint and number of windows."""
        from distillation.export.network import split_network
        from distillation.export.quantization import to_int8_onnx
        from distillation.export.samples import calibration_windows
        from distillation.export.training_set import training_cases
        from distillation.teacher import load_model_folder

        manifest = member.pack.manifest
        sha256 = manifest.provenance.checkpoint_sha256
        path = self.folder / "int8" / f"{manifest.id}-{manifest.provenance.method}-{sha256[:16]}-{windows}.onnx"
        if path.is_file():
            return path.read_bytes()
        if quantizing is not None:
            quantizing(member.name)
        prepared, fold = self.prepared(), self.recipe.dataset.fold
        source = self.source(manifest.size, manifest.provenance.method)
        model = load_model_folder(source.folder, fold, source.checkpoint)
        body = to_int8_onnx(
            split_network(model.network).body,
            channels=len(model.dataset["channel_names"]),
            patch_size=manifest.windows.patch_size,
            windows=calibration_windows(model, training_cases(prepared.raw, prepared.held_out_cases(fold)), windows),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path) as temporary:
            temporary.write_bytes(body)
        return body

    def source(self, size: str, method: Method) -> TeacherSource:
        """Return where a network's weights lie, or will lie when it is trained."""
        if size == TEACHER_SIZE:
            return self.teacher()
        student = Student(size=size, method=method)
        return TeacherSource(folder=student_folder(self.workspace, self.recipe, student, self.prepared().plans))

    def _all_present(self, storage: Storage) -> list[StudentPack]:
        """Return the packs of all networks of the recipe.

        Raises:
            ExportError: one is missing or out of date.
            TrainingError: the dataset is not prepared, or its files have changed.
        """
        students = select_students(self.recipe)
        networks = [(TEACHER_SIZE, "teacher"), *((student.size, student.method) for student in students)]
        packs = [self._present(size, method, storage) for size, method in networks]
        present = [pack for pack in packs if pack is not None]
        if len(present) < len(networks):
            raise ExportError("a pack is missing or out of date; run 'kdseg-distill evaluate'")
        return present

    def _is_shipped(self, pack: StudentPack) -> bool:
        return pack.manifest.provenance.method in ("teacher", self.recipe.pack.method)

    def _fold_folder(self, plans: dict[str, Any]) -> Path:
        dataset = self.recipe.dataset
        folder = model_folder(
            self.workspace, dataset.name, method_of(plans), plans["plans_name"], dataset.configuration
        )
        return folder / f"fold_{dataset.fold}"

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
        warm_up = warm_up_folder(self.workspace, self.recipe, student.size, plans)
        return plans_for_student(
            self.recipe, student, plans, self.teacher(), warm_up, soft_label_folder(prepared, dataset.configuration)
        )

    def _given_plans(self) -> dict[str, Any] | None:
        return None if self.given_teacher is None else read_plans(self.given_teacher.folder / "plans.json")

    def _pack(self, size: str, method: Method, storage: Storage, exported: ExportReport | None) -> StudentPack:
        from distillation.export import export_pack
        from distillation.teacher import load_model_folder
        from KDSegmentatorLib.io.files import restore_folder

        fold = self.recipe.dataset.fold
        source = self.source(size, method)
        checkpoint = source.path(fold)
        if not checkpoint.is_file():
            raise TrainingError(
                f"{size} {method} is not trained yet ({checkpoint} is missing); run 'kdseg-distill train-teacher' or "
                "'kdseg-distill distil' first"
            )
        folder = self._pack_folder(size, method, storage)
        restore_folder(folder)
        present = self._present(size, method, storage)
        if present is not None:
            return present
        teacher = None
        if size != TEACHER_SIZE:
            teacher = load_model_folder(self.teacher().folder, fold, self.teacher().checkpoint)
        prepared = self.prepared()
        result = export_pack(
            load_model_folder(source.folder, fold, source.checkpoint),
            size=size,
            teacher=teacher,
            recipe=self.recipe.pack,
            dataset=prepared.raw,
            into=folder.parent,
            storage=storage,
            held_out=prepared.held_out_cases(fold),
        )
        if exported is not None:
            exported(f"{size} {method}", result.agreement)
        return result.pack

    def _pack_folder(self, size: str, method: Method, storage: Storage) -> Path:
        into = self.folder / ("packs" if storage == "float16" else f"packs-{storage}") / method
        return into / pack_id(self.recipe.pack.task, size)

    def _present(self, size: str, method: Method, storage: Storage) -> StudentPack | None:
        """Return the pack of a network if it is there and of its checkpoint."""
        pack = _open_if_there(self._pack_folder(size, method, storage))
        checkpoint = self.source(size, method).path(self.recipe.dataset.fold)
        if pack is None or not checkpoint.is_file() or not self._up_to_date(pack.manifest, checkpoint):
            return None
        return pack

    def _up_to_date(self, manifest: Manifest, checkpoint: Path) -> bool:
        """Return whether a pack is of this checkpoint and teacher, has a probe, and says what the recipe says."""
        recipe = self.recipe.pack
        said = [field.name for field in fields(recipe) if field.name not in ("method", "recommended")]
        same = all(getattr(manifest, name) == getattr(recipe, name) for name in said)
        same = same and manifest.recommended == (manifest.size == recipe.recommended)
        provenance = manifest.provenance
        return (
            same
            and manifest.network.probe is not None
            and manifest.expected is not None
            and provenance.checkpoint_sha256 == file_sha256(checkpoint)
            and provenance.teacher_sha256 in (None, self.teacher().sha256(self.recipe.dataset.fold))
        )


def _model_name(pack: StudentPack) -> str:
    return f"{pack.manifest.size} {pack.manifest.provenance.method}"


def _own_int8_body(pack: StudentPack) -> bytes | None:
    has_one = any(each.precision == "int8" for each in pack.manifest.network.reduced_precisions)
    return pack.body("int8") if has_one else None


def _open_if_there(folder: Path) -> StudentPack | None:
    if not folder.is_dir():
        return None
    try:
        return open_pack(folder)
    except KDSegmentatorError:
        return None

"""The packs of a recipe's networks: exported where they are missing or out of date."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from distillation.dataset import check_grids
from distillation.students import (
    TEACHER_SIZE,
    Student,
    select_students,
)
from KDSegmentatorLib.errors import ExportError, InvalidSettingsError, KDSegmentatorError, TrainingError
from KDSegmentatorLib.io.files import file_sha256
from KDSegmentatorLib.packs.manifest import Manifest, Method
from KDSegmentatorLib.packs.names import MANIFEST_NAME, divisor, pack_id
from KDSegmentatorLib.packs.pack import StudentPack, open_pack, verify_pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distillation.export.network import Agreement, Storage
    from distillation.launch import Progress
    from distillation.recipe import Recipe
    from distillation.trainings import Trainings

    ExportReport = Callable[[str, Agreement], None]
    """Called after an export with the model's name and how well it agrees with torch."""


@dataclass(frozen=True, kw_only=True)
class Exports:
    """The packs of a family.

    Attributes:
        trainings: what was trained.
        folder: where packs go, ``packs/<method>/<id>``, or ``packs-float32/...`` for that storage.
    """

    trainings: Trainings
    folder: Path

    @property
    def recipe(self) -> Recipe:
        """The recipe at work."""
        return self.trainings.recipe

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

    def exported(self, storage: Storage, output: Path, bundles: Path | None) -> Progress:
        """Return whether the packs to be shipped, and their MONAI bundles, are those of the networks as they are."""
        from distillation.export.monai_bundle import bundle_folder

        try:
            packs = [pack for pack in self.all_present(storage) if self._is_shipped(pack)]
            for pack in packs:
                shipped = _open_if_there(output / pack.manifest.id)
                if shipped is None or shipped.manifest_sha256 != pack.manifest_sha256:
                    return "new"
                if bundles is None:
                    continue
                made = bundle_folder(self.recipe.pack.task, pack.manifest.size, bundles) / "configs" / "metadata.json"
                source = self.trainings.source(pack.manifest.size, pack.manifest.provenance.method)
                if made.stat().st_mtime < source.path(self.recipe.dataset.fold).stat().st_mtime:
                    return "new"
        except (KDSegmentatorError, OSError):
            return "new"
        return "done"

    def bundle(self, size: str, method: Method, into: Path) -> Path:
        """Write a network as a MONAI bundle and return its folder; an earlier one there is replaced.

        Args:
            size: ``x1`` for the teacher.
            method: ``teacher``, or the student's.
            into: folder for the bundle's folder.
        """
        from distillation.export.monai_bundle import export_bundle
        from distillation.teacher import load_model_folder

        source = self.trainings.source(size, method)
        model = load_model_folder(source.folder, self.recipe.dataset.fold, source.checkpoint)
        codes = check_grids(self.trainings.prepared().raw)
        return export_bundle(model, size=size, axis_codes=codes, recipe=self.recipe.pack, into=into)

    def all_present(self, storage: Storage) -> list[StudentPack]:
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

    def _pack(self, size: str, method: Method, storage: Storage, exported: ExportReport | None) -> StudentPack:
        from distillation.export import export_pack
        from distillation.teacher import load_model_folder
        from KDSegmentatorLib.io.files import restore_folder

        fold = self.recipe.dataset.fold
        source = self.trainings.source(size, method)
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
            teacher = load_model_folder(self.trainings.teacher().folder, fold, self.trainings.teacher().checkpoint)
        prepared = self.trainings.prepared()
        result = export_pack(
            load_model_folder(source.folder, fold, source.checkpoint),
            size=size,
            teacher=teacher,
            recipe=self.recipe.pack,
            dataset=prepared.raw,
            into=folder.parent,
            storage=storage,
            held_out=prepared.held_out_cases(fold),
            started_from=self.trainings.started_from(size, method),
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
        checkpoint = self.trainings.source(size, method).path(self.recipe.dataset.fold)
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
            and provenance.teacher_sha256 in (None, self.trainings.teacher().sha256(self.recipe.dataset.fold))
        )


def _open_if_there(folder: Path) -> StudentPack | None:
    if not folder.is_dir():
        return None
    try:
        return open_pack(folder)
    except KDSegmentatorError:
        return None

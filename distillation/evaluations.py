"""The evaluation of a recipe's packs: on held-out cases and on those from outside, and what each network costs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from distillation.plans import read_plans, resolve_configuration
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.pack import StudentPack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from distillation.evaluation.family import FamilyProgress, FamilyResult, Member
    from distillation.export.network import Storage
    from distillation.exports import Exports
    from distillation.launch import Progress
    from distillation.recipe import Recipe
    from distillation.trainings import Trainings


CALIBRATION_WINDOWS = 50
"""Windows that a network is quantised with; more of them move the ranges by little."""


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """What is measured of a family: tables in ``evaluation``, ``tests/NAME`` and ``report``, networks in ``int8``.

    Attributes:
        exports: the packs.
    """

    exports: Exports

    @property
    def trainings(self) -> Trainings:
        """What was trained."""
        return self.exports.trainings

    @property
    def recipe(self) -> Recipe:
        """The recipe at work."""
        return self.exports.trainings.recipe

    @property
    def folder(self) -> Path:
        """Where packs and tables go."""
        return self.exports.folder

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
            self.trainings.held_out_cases(),
            dataset=self.recipe.dataset.title,
            split=self.recipe.held_out_text(),
            into=self.folder / "evaluation",
            surface=self.recipe.evaluation,
            about={**self._about(), "calibration_windows": calibration_windows},
            subjects=self.trainings.subjects(),
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

    def measure_efficiency(self, packs: Sequence[StudentPack], *, threads: int | None = None) -> Path:
        """Count and measure what every network costs, and write ``evaluation/efficiency.json``.

        Args:
            packs: the teacher first.
            threads: CPU threads of the engine.
        """
        from distillation.evaluation.efficiency import measure_family, write_efficiency

        def configuration(pack: StudentPack) -> dict[str, Any]:
            manifest = pack.manifest
            folder = self.trainings.source(manifest.size, manifest.provenance.method).folder
            return resolve_configuration(read_plans(folder / "plans.json"), self.recipe.dataset.configuration)

        rows = measure_family(
            [(pack, configuration(pack)) for pack in packs], self.trainings.held_out_cases(), threads=threads
        )
        path = self.folder / "evaluation" / "efficiency.json"
        write_efficiency(path, rows)
        return path

    def evaluation(self, storage: Storage, calibration_windows: int) -> Progress:
        """Return how far the evaluation of all networks is, with the checkpoints and settings as they are now."""
        from distillation.evaluation.scores import pack_hash

        folder = self.folder / "evaluation"
        begun: Progress = "started" if (folder / "scores.csv").is_file() else "new"
        try:
            packs = self.exports.all_present(storage)
            content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
            about = content["about"]
            same = (
                about["pack_hashes"] == {_model_name(pack): pack_hash(pack) for pack in packs}
                and about["calibration_windows"] == calibration_windows
                and (content["dataset"], content["split"]) == (self.recipe.dataset.title, self.recipe.held_out_text())
                and content["surface"] == asdict(self.recipe.evaluation)
                and content["subjects"].keys() == {case.name for case in self.trainings.held_out_cases()}
            )
        except (KDSegmentatorError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return begun
        complete = all(pack.manifest.evaluation is not None for pack in packs)
        return "done" if same and complete and (folder / "efficiency.json").is_file() else begun

    def reported(self, storage: Storage) -> Progress:
        """Return whether the report is of the evaluation as it is."""
        try:
            self.exports.all_present(storage)
            evaluated = (self.folder / "evaluation" / "evaluation.json").stat().st_mtime
            names = ("report.html", "report.md")
            newer = all((self.folder / "report" / name).stat().st_mtime >= evaluated for name in names)
        except (KDSegmentatorError, OSError):
            return "new"
        return "done" if newer else "new"

    def _about(self) -> dict[str, Any]:
        """Return what evaluations say about the recipe."""
        return {
            "task": self.recipe.pack.task,
            "title": self.recipe.pack.title,
            "seed": self.recipe.training.seed,
            "labels": {label.value: label.name for label in self.recipe.pack.labels},
        }

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
        prepared, fold = self.trainings.prepared(), self.recipe.dataset.fold
        source = self.trainings.source(manifest.size, manifest.provenance.method)
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


def _model_name(pack: StudentPack) -> str:
    return f"{pack.manifest.size} {pack.manifest.provenance.method}"


def _own_int8_body(pack: StudentPack) -> bytes | None:
    has_one = any(each.precision == "int8" for each in pack.manifest.network.reduced_precisions)
    return pack.body("int8") if has_one else None

"""The stage that quantises and evaluates, with a dataset that counts as prepared."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import distillation.evaluation.reduced_precision as reduced_precision
import distillation.export.quantization as quantization
import distillation.export.samples as samples
from distillation.cli import main
from distillation.dataset import Case, read_dataset
from distillation.evaluations import CALIBRATION_WINDOWS, Evaluations
from distillation.export.pack_folder import copy_pack
from distillation.exports import Exports
from distillation.launch import Workspace
from distillation.recipe import Recipe
from distillation.stages import Stages
from distillation.students import TeacherSource
from distillation.teacher import ModelFolder
from distillation.trainings import Trainings
from KDSegmentatorLib.errors import ExportError, InvalidSettingsError, PackError
from KDSegmentatorLib.packs.manifest_file import write_manifest
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.pack import StudentPack, open_pack
from support.generated_family import build_size

HELD_OUT = ("case_00", "case_01")


@pytest.fixture
def stages(
    teacher_pack: StudentPack, spheres: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Stages:
    """Stages with a given teacher whose pack is there."""
    prepared = SimpleNamespace(raw=read_dataset(spheres), held_out_cases=lambda fold: HELD_OUT)
    monkeypatch.setattr(Trainings, "prepared", lambda self: prepared)
    return Stages(
        recipe=recipe,
        workspace=Workspace.below(tmp_path),
        folder=tmp_path / "work",
        given_teacher=TeacherSource(folder=tmp_path / "teacher"),
    )


class Quantizer:
    """Stands in for NNCF and the choice of windows; notes what it is given and returns what it is told."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.cases: list[list[str]] = []
        self.windows: list[int] = []

    def choose(self, model: ModelFolder, cases: Sequence[Case], count: int) -> list[np.ndarray]:
        self.cases.append([case.name for case in cases])
        return [np.zeros((1, 1, 16, 16, 16), np.float32)] * count

    def quantize(
        self, body: object, *, channels: int, patch_size: Sequence[int], windows: Sequence[np.ndarray]
    ) -> bytes:
        assert (channels, tuple(patch_size)) == (1, (16, 16, 16))
        self.windows.append(len(windows))
        return self.body


@pytest.fixture
def quantizer(teacher_pack: StudentPack, monkeypatch: pytest.MonkeyPatch) -> Quantizer:
    made = Quantizer(teacher_pack.body())
    monkeypatch.setattr(samples, "calibration_windows", made.choose)
    monkeypatch.setattr(quantization, "to_int8_onnx", made.quantize)
    return made


@pytest.fixture
def having(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that makes up what the processor can do."""

    def make(*abilities: str) -> None:
        found = {"cpu": frozenset({"FP32", *abilities})}
        monkeypatch.setattr(reduced_precision, "openvino_devices", lambda: found)

    return make


def test_networks_are_quantised_once_and_on_training_cases_only(
    stages: Stages, teacher_pack: StudentPack, quantizer: Quantizer, having: Callable[..., None]
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO runs int8")
    having("INT8")
    named: list[str] = []
    for _ in range(2):
        result = stages.evaluations.evaluate([teacher_pack], calibration_windows=5, threads=1, quantizing=named.append)
    assert quantizer.cases == [["case_02", "case_03", "case_04", "case_05"]]
    assert quantizer.windows == [5]
    assert named == ["x1 teacher"]
    assert [each.precision for each in result.reduced] == ["int8"]
    assert open_pack(teacher_pack.folder).body("int8") == quantizer.body
    stages.evaluations.evaluate([teacher_pack], calibration_windows=6, threads=1)
    assert quantizer.windows == [5, 6]
    sha256 = teacher_pack.manifest.provenance.checkpoint_sha256[:16]
    names = sorted(path.name for path in (stages.folder / "int8").iterdir())
    assert names == [f"spheres-x1-teacher-{sha256}-5.onnx", f"spheres-x1-teacher-{sha256}-6.onnx"]


@pytest.mark.parametrize("reason", ["no windows", "mirroring", "no instructions"])
def test_nothing_is_quantised_that_would_not_be_run(
    stages: Stages, teacher_pack: StudentPack, quantizer: Quantizer, having: Callable[..., None], reason: str
) -> None:
    having(*([] if reason == "no instructions" else ["INT8"]))
    count, mirroring = 0 if reason == "no windows" else 5, reason == "mirroring"
    result = stages.evaluations.evaluate([teacher_pack], mirroring=mirroring, calibration_windows=count, threads=1)
    assert quantizer.windows == []
    assert result.reduced == ()
    assert ("int8 was not measured: this processor" in result.table) == (reason == "no instructions")
    assert open_pack(teacher_pack.folder).manifest.network.reduced_precisions == ()


def test_without_nncf_nothing_is_started_and_nothing_is_lost(
    stages: Stages, teacher_pack: StudentPack, having: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    having("INT8")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"needs NNCF.*--calibration-windows 0"):
        stages.evaluations.evaluate([teacher_pack], threads=1)
    assert open_pack(teacher_pack.folder).manifest == teacher_pack.manifest
    assert not (stages.folder / "int8").exists()
    result = stages.evaluations.evaluate([teacher_pack], calibration_windows=0, threads=1)  # as the message says
    assert result.models[0].model == "x1 teacher"


def test_a_machine_without_bfloat16_leaves_it_out_and_says_so(
    stages: Stages, teacher_pack: StudentPack, having: Callable[..., None]
) -> None:
    having("INT8")
    result = stages.evaluations.evaluate([teacher_pack], calibration_windows=0, threads=1)
    said = (
        "bfloat16 was not measured: this processor has no instructions for bfloat16; evaluate on one that has them "
        "to add it."
    )
    assert said in result.table
    assert json.loads((stages.folder / "evaluation" / "evaluation.json").read_text())["notes"] == [said]
    assert open_pack(teacher_pack.folder).manifest.network.reduced_precisions == ()


def test_the_recipes_groups_are_subjects(
    stages: Stages, teacher_pack: StudentPack, recipe: Recipe, having: Callable[..., None]
) -> None:
    having()
    stages.evaluations.evaluate([teacher_pack], calibration_windows=0, threads=1)
    path = stages.folder / "evaluation" / "evaluation.json"
    assert json.loads(path.read_text())["subjects"] == {"case_00": "case_00", "case_01": "case_01"}
    groups = (("case_0[23]",), ("case_01", "case_00"))  # those of training images have to be allowed, too
    rescans = replace(stages, recipe=replace(recipe, dataset=replace(recipe.dataset, groups=groups)))
    with pytest.raises(InvalidSettingsError, match="all 2 held-out cases are of one subject"):
        rescans.evaluations.evaluate([teacher_pack], calibration_windows=0, threads=1)


@pytest.mark.parametrize(("given", "expected"), [([], CALIBRATION_WINDOWS), (["--calibration-windows", "0"], 0)])
def test_the_command_hands_the_number_of_windows_on(
    teacher_pack: StudentPack,
    recipe_text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    expected: int,
) -> None:
    options: dict[str, Any] = {}

    def evaluate(self: Stages, packs: Sequence[StudentPack], **arguments: Any) -> SimpleNamespace:
        options.update(arguments)
        arguments["quantizing"]("x1 teacher")
        return SimpleNamespace(table="")

    monkeypatch.setattr(Exports, "teacher_pack", lambda *arguments: teacher_pack)
    monkeypatch.setattr(Exports, "student_pack", lambda *arguments: teacher_pack)
    monkeypatch.setattr(Evaluations, "evaluate", evaluate)
    monkeypatch.setattr(Evaluations, "measure_efficiency", lambda *arguments, **options: None)
    path = tmp_path / "spheres.yaml"
    path.write_text(recipe_text)
    assert main(["evaluate", str(path), "--workspace", str(tmp_path), *given]) == 0
    assert options["calibration_windows"] == expected
    assert "x1 teacher: quantising to int8" in capsys.readouterr().out


def test_packs_are_evaluated_where_they_lie_without_any_checkpoint(
    stages: Stages, teacher_pack: StudentPack, quantizer: Quantizer, having: Callable[..., None], tmp_path: Path
) -> None:
    """A machine that has the instructions adds what the exporting one could not measure."""
    pytest.importorskip("openvino", reason="OpenVINO runs int8")
    having("INT8")
    stages.evaluations.evaluate([teacher_pack], calibration_windows=5, threads=1)
    shipped = copy_pack(open_pack(teacher_pack.folder), tmp_path / "shipped")
    before = shipped.reduced("int8")
    shutil.rmtree(tmp_path / "teacher")
    shutil.rmtree(stages.folder / "int8")
    network = replace(shipped.manifest.network, reduced_precisions=(replace(before, mean_dice_loss=0.004),))
    text = write_manifest(replace(shipped.manifest, network=network))
    (shipped.folder / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="\n")

    result = stages.evaluations.evaluate(
        stages.exports.packs_in(tmp_path / "shipped"), calibration_windows=None, threads=1
    )
    assert [each.precision for each in result.reduced] == ["int8"]
    after = open_pack(shipped.folder)
    assert after.reduced("int8") == before
    assert after.body("int8") == quantizer.body
    assert quantizer.windows == [5]


def test_a_pack_without_int8_stays_without(
    stages: Stages, teacher_pack: StudentPack, having: Callable[..., None]
) -> None:
    having("INT8")
    result = stages.evaluations.evaluate([teacher_pack], calibration_windows=None, threads=1)
    assert result.reduced == ()
    assert open_pack(teacher_pack.folder).manifest.network.reduced_precisions == ()


def test_packs_of_a_folder_are_the_tasks_own_the_largest_first(
    stages: Stages, teacher_pack: StudentPack, tmp_path: Path
) -> None:
    folder = tmp_path / "shipped"
    build_size(folder / "another", "x1/4")
    with pytest.raises(InvalidSettingsError, match="holds no pack of the task spheres"):
        stages.exports.packs_in(folder)
    copy_pack(teacher_pack, folder)
    for size in ("x1/4", "x1/2"):
        build_size(folder / f"spheres-{size.replace('/', '_')}", size, task="spheres")
    assert [pack.manifest.size for pack in stages.exports.packs_in(folder)] == ["x1", "x1/2", "x1/4"]
    body = folder / "spheres-x1_4" / "body.onnx"
    body.write_bytes(body.read_bytes()[:-1])
    with pytest.raises(PackError, match=r"body\.onnx"):
        stages.exports.packs_in(folder)


def test_the_command_evaluates_the_packs_of_a_folder(
    teacher_pack: StudentPack, recipe_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def evaluate(self: Stages, packs: Sequence[StudentPack], **arguments: Any) -> SimpleNamespace:
        seen.extend([[pack.manifest.id for pack in packs], arguments["calibration_windows"]])
        return SimpleNamespace(table="")

    monkeypatch.setattr(Evaluations, "evaluate", evaluate)
    path = tmp_path / "spheres.yaml"
    path.write_text(recipe_text)
    packs = str(teacher_pack.folder.parent)
    assert main(["evaluate", str(path), "--workspace", str(tmp_path), "--packs", packs]) == 0
    assert seen == [[teacher_pack.manifest.id], None]


@pytest.mark.parametrize("value", ["-1", "many", "1.5", ""])
def test_a_number_of_windows_that_makes_no_sense(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "hippocampus", "--workspace", "work", f"--calibration-windows={value}"])
    assert stop.value.code == 2
    assert f"--calibration-windows: must be 0 or more, got {value!r}" in capsys.readouterr().err

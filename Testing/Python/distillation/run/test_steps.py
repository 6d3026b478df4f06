"""Whether a step is done follows from what it left, so that neither too much nor too little is done again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.dataset import find_dataset
from distillation.launch import Workspace
from distillation.recipe import Recipe
from distillation.run.runner import run
from distillation.run.steps import STAGES, RunSettings, Stage, Step, steps_of
from distillation.source_files import changed_sources, record_sources
from distillation.stages import Stages
from distillation.students import Student, TeacherSource, plans_for_student, plans_for_teacher
from distillation.training_settings import TrainingSettings
from distillation.trainings import Trainings
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError
from KDSegmentatorLib.packs.pack import StudentPack

SPLIT = [{"train": ["case_01", "case_02"], "val": ["case_00"]}, {"train": ["case_00", "case_01"], "val": ["case_02"]}]


@pytest.fixture
def stages(recipe: Recipe, spheres: Path, tmp_path: Path) -> Stages:
    return Stages(recipe=recipe, workspace=Workspace.below(tmp_path / "work", spheres.parent), folder=tmp_path / "work")


@pytest.fixture
def taught(stages: Stages, plans: Callable[..., Any], model_folder: Callable[..., Path]) -> Stages:
    """By folds 0 and 1 of a given teacher."""
    for fold in (0, 1):
        folder = model_folder(plans(), fold=fold, seed=fold)
    teacher = replace(stages.recipe.teacher, folder=str(folder), folds=(0, 1), accept_leakage=True)
    recipe = replace(stages.recipe, teacher=teacher)
    return replace(stages, recipe=recipe, given_teacher=TeacherSource(folder=folder))


def steps(stages: Stages, *wanted: Stage) -> list[Step]:
    settings = RunSettings(output=stages.folder / "family")
    return steps_of(stages, settings, lambda _line: None, wanted or STAGES)


def test_files_that_were_touched_are_the_same_and_changed_ones_are_named(stages: Stages, tmp_path: Path) -> None:
    raw = find_dataset(stages.workspace.raw, stages.recipe.dataset.name)
    folder = tmp_path / "prepared"
    assert changed_sources(raw, folder) == ()  # nobody knows
    record_sources(raw, folder)
    image, label = raw.cases[0].image, raw.cases[1].label
    os.utime(image, ns=(0, 0))
    assert changed_sources(raw, folder) == ()
    label.write_bytes(raw.cases[2].label.read_bytes())
    assert changed_sources(raw, folder) == ("labelsTr/case_01.nii.gz",)
    fewer = replace(raw, cases=raw.cases[1:])
    assert changed_sources(fewer, folder)[0] == "imagesTr/case_00_0000.nii.gz"


def test_nothing_is_trained_on_an_earlier_state_of_the_dataset(stages: Stages) -> None:
    raw = find_dataset(stages.workspace.raw, stages.recipe.dataset.name)
    folder = stages.workspace.preprocessed / stages.recipe.dataset.name
    record_sources(raw, folder)
    raw.cases[0].label.write_bytes(raw.cases[2].label.read_bytes())
    with pytest.raises(TrainingError, match=r"prepared from other files; .*labelsTr/case_00.*prepare' again"):
        run(steps(stages, "teacher", "students"), stages, device="cpu", say=print)
    (stages.workspace.results / stages.recipe.dataset.name / "trained").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"labelsTr/case_00.*Networks were trained on it: put the files back"):
        run(steps(stages, "prepare"), stages, device="cpu", say=print)
    assert (folder / "prepared_from.json").is_file()


def test_a_training_is_not_gone_on_with_on_another_split(
    stages: Stages, plans: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stages.workspace.preprocessed / stages.recipe.dataset.name / "splits_final.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(SPLIT))
    begun: list[Path] = []

    def train(*_: object, plans: Sequence[dict[str, Any]], **__: object) -> list[Path]:
        begun.extend(stages.trainings._fold_folder(each) / "checkpoint_latest.pth" for each in plans)
        begun[-1].touch()
        return [begun[-1].parents[1]]

    monkeypatch.setattr("distillation.trainings.train_side_by_side", train)
    wanted = [plans_for_teacher(stages.recipe, plans())]
    stages.trainings._train(wanted, "cpu")
    path.write_text(json.dumps([SPLIT[0], {**SPLIT[1], "val": []}]))  # another fold
    stages.trainings._train(wanted, "cpu")
    path.write_text(json.dumps(SPLIT[::-1]))
    with pytest.raises(TrainingError, match=r"trained with another split than .*splits_final.json\. No training is"):
        stages.trainings._train(wanted, "cpu")
    begun[0].unlink()  # nothing was trained yet
    stages.trainings._train(wanted, "cpu")
    assert len(begun) == 3


def test_what_a_training_started_from_is_known_when_that_is_replaced(
    stages: Stages, plans: Callable[..., Any], teacher_pack: StudentPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stages.workspace.preprocessed / stages.recipe.dataset.name
    folder.mkdir(parents=True)
    (folder / "splits_final.json").write_text(json.dumps(SPLIT))
    monkeypatch.setattr("distillation.trainings.train_side_by_side", lambda *_, **__: [])
    monkeypatch.setattr(Trainings, "prepared", lambda _self: SimpleNamespace(plans=plans(), folder=folder))
    known = teacher_pack.manifest.provenance.checkpoint_sha256
    student = replace(stages.recipe.students[0], start=str(teacher_pack.folder), start_sha256=known)
    trainings = replace(stages, recipe=replace(stages.recipe, students=(student,))).trainings
    assert trainings.started_from("x1/2", "plain") == teacher_pack.manifest  # of an earlier version: the recipe's
    trainings._train([plans_for_student(trainings.recipe, Student(size="x1/2", method="plain"), plans(), None)], "cpu")
    manifest = teacher_pack.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(known, "0" * 64))
    assert trainings.started_from("x1/2", "plain") == teacher_pack.manifest
    settings = TrainingSettings.from_plans(trainings._plans_of(Student(size="x1/2", method="plain")))
    assert settings.initial_sha256 == known  # the same run as when it was begun
    assert trainings.started_from("x1", "teacher") is None
    with pytest.raises(InvalidSettingsError, match="starts from a pack of the checkpoint"):
        trainings.started_from("x1/2", "logit")  # not begun, and nobody knows the pack


def test_several_processes_only_train(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="torchrun is for trainings, not for prepare, evaluate, export, report"):
        run(steps(stages), stages, device="cpu", say=print)


def test_a_teacher_that_saw_the_held_out_cases_is_refused(taught: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    honest = replace(taught.recipe, teacher=replace(taught.recipe.teacher, folds=None, accept_leakage=False))
    given = replace(taught, recipe=honest)
    assert taught.given_teacher is not None

    class Prepared:
        folder = Path("preprocessed")

        def held_out_cases(self, fold: int) -> tuple[str, ...]:
            return ("case_00", "case_02")

    monkeypatch.setattr(Trainings, "prepared", lambda _self: Prepared())
    (teacher,) = steps_of(given, RunSettings(output=given.folder), said.append, ("teacher",))
    teacher.work()
    assert "does not tell which cases it has not seen" in said[0]
    validation = taught.given_teacher.folder / "fold_0" / "validation"
    validation.mkdir()
    files = ["C:\\somewhere\\case_00.nii.gz", "/there/case_002.nii.gz"]
    cases = {"metric_per_case": [{"prediction_file": file} for file in files]}
    (validation / "summary.json").write_text(json.dumps(cases))
    with pytest.raises(TrainingError, match=r"not validated on case_02, which this recipe holds out.*accept_leakage"):
        teacher.work()
    (accepted,) = steps_of(taught, RunSettings(output=taught.folder), said.append, ("teacher",))
    accepted.work()

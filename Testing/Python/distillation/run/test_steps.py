"""What goes into each step, so that neither too much nor too little is done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.launch import Workspace
from distillation.recipe import Recipe
from distillation.run.record import Records, StepRecord
from distillation.run.runner import run
from distillation.run.steps import RunOptions, Steps
from distillation.stages import Stages
from distillation.students import TeacherSource
from KDSegmentatorLib.errors import TrainingError

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


def steps(stages: Stages) -> Steps:
    return Steps(stages, RunOptions(output=stages.folder / "family"), lambda _line: None)


def inputs(stages: Stages) -> dict[str, dict[str, str]]:
    return {step.name: step.inputs() for step in steps(stages).all()}


def changed(before: Stages, after: Stages) -> set[str]:
    old, new = inputs(before), inputs(after)
    return {name for name in old if old[name] != new[name]}


def with_split(stages: Stages, split: object) -> Path:
    folder = stages.workspace.preprocessed / stages.recipe.dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "splits_final.json"
    path.write_text(json.dumps(split))
    return path


def test_every_fold_that_teaches_goes_into_what_it_teaches(taught: Stages) -> None:
    before = inputs(taught)
    assert taught.given_teacher is not None
    path = taught.given_teacher.folder / "fold_1" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes() + b"another")
    after = inputs(taught)
    assert {name for name in before if before[name] != after[name]} == {"teacher", "student x1/2 logit"}
    one = replace(taught.recipe, teacher=replace(taught.recipe.teacher, folds=None, accept_leakage=False))
    assert changed(taught, replace(taught, recipe=one)) == {"teacher", "student x1/2 logit", "evaluate"}


def test_the_learning_rate_after_a_warm_up_is_no_matter_of_the_teachers(stages: Stages) -> None:
    training = replace(stages.recipe.training, continued_learning_rate=0.123)
    other = replace(stages, recipe=replace(stages.recipe, training=training))
    assert changed(stages, other) == set()
    students = tuple(replace(each, warm_up_epochs=1) for each in stages.recipe.students)
    warmed_up = replace(stages, recipe=replace(stages.recipe, students=students))
    both = replace(stages, recipe=replace(other.recipe, students=students))
    assert changed(warmed_up, both) == {"student x1/2 plain", "student x1/2 logit"}


def test_who_is_held_out_goes_into_every_training_and_the_evaluation(stages: Stages) -> None:
    with_split(stages, SPLIT)
    before = inputs(stages)
    with_split(stages, [SPLIT[0], {**SPLIT[1], "val": []}])  # another fold
    assert inputs(stages) == before
    with_split(stages, SPLIT[::-1])
    after = inputs(stages)
    changes = {name: {key for key in before[name] if before[name][key] != after[name][key]} for name in before}
    networks = ("teacher", "student x1/2 plain", "student x1/2 logit", "evaluate")
    assert {name: keys for name, keys in changes.items() if keys} == {key: {"split"} for key in networks}


def test_nothing_is_trained_on_an_earlier_state_of_the_dataset(stages: Stages) -> None:
    all_steps = steps(stages)
    (prepare,) = all_steps.of("prepare")
    record = StepRecord(step="prepare", finished=True, inputs={**prepare.inputs(), "dataset": "another"})
    Records(stages.folder / "run").write(record)
    trainings = all_steps.of("teacher", "students")
    with pytest.raises(TrainingError, match=r"prepared with other inputs; changed since then: dataset.*prepare' first"):
        run(all_steps, trainings, stages, device="cpu", measure=False, say=print)


def test_several_processes_only_train(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    everything = steps(stages)
    with pytest.raises(TrainingError, match="torchrun is for trainings, not for prepare, evaluate, export, report"):
        run(everything, everything.all(), stages, device="cpu", measure=False, say=print)


def test_a_teacher_that_saw_the_held_out_cases_is_refused(taught: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    honest = replace(taught.recipe, teacher=replace(taught.recipe.teacher, folds=None, accept_leakage=False))
    given = replace(taught, recipe=honest)
    assert taught.given_teacher is not None

    class Prepared:
        folder = Path("preprocessed")

        def held_out_cases(self, fold: int) -> tuple[str, ...]:
            return ("case_00", "case_02")

    monkeypatch.setattr(Stages, "prepared", lambda _self: Prepared())
    (teacher,) = Steps(given, RunOptions(output=given.folder), said.append).of("teacher")
    teacher.work()
    assert "does not tell which cases it has not seen" in said[0]
    validation = taught.given_teacher.folder / "fold_0" / "validation"
    validation.mkdir()
    files = ["C:\\somewhere\\case_00.nii.gz", "/there/case_002.nii.gz"]
    cases = {"metric_per_case": [{"prediction_file": file} for file in files]}
    (validation / "summary.json").write_text(json.dumps(cases))
    with pytest.raises(TrainingError, match=r"not validated on case_02, which this recipe holds out.*accept_leakage"):
        teacher.work()
    (accepted,) = Steps(taught, RunOptions(output=taught.folder), said.append).of("teacher")
    accepted.work()

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import torch

from distillation.distiller import load_teachers
from distillation.launch import Workspace
from distillation.recipe import Recipe
from distillation.run.checks import check_before_start, explained_memory, load_given_teacher, short_teacher
from distillation.run.steps import Step
from distillation.stages import Stages
from distillation.students import TeacherSource
from distillation.training_settings import PLANS_KEY, DistillationSettings, TeacherSettings, TrainingSettings
from KDSegmentatorLib.errors import InsufficientMemoryError, TeacherError, TrainingError


@pytest.fixture
def stages(plans: Callable[..., Any], model_folder: Callable[..., Path], spheres: Path, recipe: Recipe) -> Stages:
    folder = spheres.parents[1]
    given = TeacherSource(folder=model_folder(plans()))
    return Stages(recipe=recipe, workspace=Workspace.below(folder, spheres.parent), folder=folder, given_teacher=given)


def folder_of(stages: Stages) -> Path:
    assert stages.given_teacher is not None
    return stages.given_teacher.folder


def described(stages: Stages, **changes: object) -> None:
    """Change the teacher's dataset.json."""
    path = folder_of(stages) / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def taught_by(stages: Stages, folds: tuple[int, ...]) -> Stages:
    teacher = replace(stages.recipe.teacher, folder=str(folder_of(stages)), folds=folds, accept_leakage=len(folds) > 1)
    return replace(stages, recipe=replace(stages.recipe, teacher=teacher))


def load_for_training(stages: Stages) -> None:
    """Load the teacher as the first distilled student does."""
    given, recipe = stages.given_teacher, stages.recipe
    assert given is not None
    teacher = TeacherSettings(
        folder=str(given.folder),
        folds=recipe.teacher_folds(),
        checkpoint=given.checkpoint,
        accept_leakage=recipe.teacher.accept_leakage,
    )
    load_teachers(
        DistillationSettings(method="logit", teacher=teacher, losses={}),
        fold=recipe.dataset.fold,
        dataset=json.loads((stages.workspace.raw / recipe.dataset.name / "dataset.json").read_text()),
        configuration=recipe.dataset.configuration,
    )


CHECKS = pytest.mark.parametrize("check", [check_before_start, load_given_teacher, load_for_training])
Check = Callable[[Stages], object]


@CHECKS
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"labels": {"background": 0, "front part": 1, "Back": 2}},  # a name may differ
        {"labels": {"background": 0, "front": 1, "BACK": 2}},
        {"labels": {"background": "0", "Front": "1", "Back": "2"}},
        {"channel_names": {"0": "mri"}},
    ],
)
def test_what_belongs_together_passes(stages: Stages, check: Check, changes: dict[str, object]) -> None:
    described(stages, **changes)
    check(stages)


def test_label_values_as_text_in_the_dataset(stages: Stages) -> None:
    path = stages.workspace.raw / stages.recipe.dataset.name / "dataset.json"
    labels = {"background": "0", "Front": "1", "Back": "2"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": labels}))
    check_before_start(stages)
    load_for_training(stages)


def test_the_recipes_labels_are_the_datasets(stages: Stages) -> None:
    pack = replace(stages.recipe.pack, labels=stages.recipe.pack.labels[:1])
    with pytest.raises(TrainingError, match=r"describes the labels \[1\], but Dataset901_Spheres has \[1, 2\]"):
        check_before_start(replace(stages, recipe=replace(stages.recipe, pack=pack)))


def test_a_teacher_that_trains_less_than_a_student_is_warned_of(stages: Stages, plans: Callable[..., Any]) -> None:
    own = replace(stages, given_teacher=None)
    assert short_teacher(own) is None  # two epochs each
    students = tuple(replace(student, warm_up_epochs=3) for student in own.recipe.students)
    longer = replace(own, recipe=replace(own.recipe, students=students))
    assert str(short_teacher(longer)).startswith(
        "the teacher trains for 6 iterations, the student x1/2 for 15: a teacher that is no better"
    )
    assert short_teacher(replace(longer, given_teacher=stages.given_teacher)) is None  # nobody knows
    path = folder_of(stages) / "plans.json"
    settings = TrainingSettings(epochs=1, iterations_per_epoch=10)
    path.write_text(json.dumps({**json.loads(path.read_text()), PLANS_KEY: settings.to_plans()}))
    assert "for 10 iterations" in str(short_teacher(replace(longer, given_teacher=stages.given_teacher)))


@CHECKS
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "Front": 1}}, "do not fit the network"),
        ({"labels": {"background": 0, "Front": 2, "Back": 1}}, "Front, Back another value"),
        ({"labels": {"background": 0, "front": 2, "BACK": 1}}, "Front, Back another value"),
        ({"labels": {"background": 0, "front": "2", "part": "1"}}, "Front another value"),
        ({"labels": {"background": 0, "whole": [1, 2], "Back": 2}}, "is a region"),
        ({"labels": {"background": 0, "Front": "one", "Back": 2}}, "not a whole number"),
        ({"labels": None}, "lacks a valid 'labels'"),
        ({"channel_names": {"0": "CT"}}, r"channels \['CT'\] .* \['MRI'\]"),
        ({"channel_names": {"0": "MRI", "1": "CT"}}, "2 channels"),
    ],
)
def test_a_teacher_of_other_data_is_refused(
    stages: Stages, check: Check, changes: dict[str, object], message: str
) -> None:
    described(stages, **changes)
    with pytest.raises(TeacherError, match=message):
        check(stages)


@CHECKS
def test_a_teacher_of_fewer_labels_is_refused(stages: Stages, check: Check) -> None:
    edit_checkpoint(stages, 0, with_two_labels)
    described(stages, labels={"background": 0, "Front": 1})
    with pytest.raises(TeacherError, match=r"labels .* are not those of the students' dataset"):
        check(stages)


@CHECKS
def test_a_teacher_of_another_configuration_is_refused(stages: Stages, check: Check) -> None:
    path = folder_of(stages) / "plans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres"}
    path.write_text(json.dumps(plans))
    edit_checkpoint(stages, 0, lambda content: content["init_args"].update(configuration="3d_lowres"))
    with pytest.raises(TeacherError, match="trained for 3d_lowres and the students are to be trained for 3d_fullres"):
        check(stages)


@CHECKS
def test_every_fold_that_teaches_is_checked(stages: Stages, check: Check, tmp_path: Path) -> None:
    check(stages)
    several = taught_by(stages, (0, 2))
    with pytest.raises(TeacherError, match=r"fold_2.*no such file"):
        check(several)
    first, second = (folder_of(stages) / f"fold_{fold}" for fold in (0, 2))
    shutil.copytree(first, second)
    check(several)
    edit_checkpoint(stages, 2, lambda content: content.update(extra=Bomb(str(tmp_path / "touched"))))
    with pytest.raises(TeacherError, match=r"fold_2.*could run code"):
        check(several)
    assert not (tmp_path / "touched").exists()
    whole = (first / "checkpoint_final.pth").read_bytes()
    (second / "checkpoint_final.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TeacherError, match=r"fold_2.*damaged"):
        check(several)
    check(stages)  # which takes the sound fold alone


def test_the_network_of_the_datasets_fold_is_returned(stages: Stages) -> None:
    shutil.copytree(folder_of(stages) / "fold_0", folder_of(stages) / "fold_2")
    assert load_given_teacher(taught_by(stages, (2, 0))).fold == 0


def edit_checkpoint(stages: Stages, fold: int, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder_of(stages) / f"fold_{fold}" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)


def with_two_labels(content: dict[str, Any]) -> None:
    for name, value in content["network_weights"].items():
        if ".seg_layers." in name:
            content["network_weights"][name] = value[:2].clone()


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def step(work: Callable[[], None]) -> Step:
    return Step(
        stage="students", name="student x1/4 logit", progress=lambda: "new", work=work, model_folder=lambda: Path()
    )


def done(asked: Step) -> None:
    with explained_memory(asked):
        asked.work()


def more_than_there_is() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def of_a_gpu() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def of_windows() -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate")


def of_python() -> None:
    raise MemoryError


@pytest.mark.parametrize("work", [more_than_there_is, of_a_gpu, of_windows, of_python])
def test_memory_that_runs_out_is_said_in_words(work: Callable[[], None]) -> None:
    with pytest.raises(InsufficientMemoryError, match=r"student x1/4 logit ran out of memory .*gradient_checkpointing"):
        done(step(work))
    evaluation = replace(step(work), stage="evaluate", name="evaluate", model_folder=None)
    with pytest.raises(InsufficientMemoryError, match=r"^evaluate ran out of memory .*; close other programs, or"):
        done(evaluation)


def test_other_errors_stay_what_they_are() -> None:
    def broken() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        done(step(broken))

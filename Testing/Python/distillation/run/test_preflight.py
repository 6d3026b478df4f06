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
from distillation.run.preflight import check_before_start
from distillation.stages import Stages
from distillation.students import TeacherSource
from KDSegmentatorLib.errors import TeacherError, TrainingError


@pytest.fixture
def stages(plans: Callable[..., Any], model_folder: Callable[..., Path], spheres: Path, recipe: Recipe) -> Stages:
    folder = spheres.parents[1]
    given = TeacherSource(folder=model_folder(plans()))
    return Stages(recipe=recipe, workspace=Workspace.below(folder, spheres.parent), folder=folder, given_teacher=given)


def set_teachers_labels(stages: Stages, labels: object) -> None:
    assert stages.given_teacher is not None
    path = stages.given_teacher.folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": labels}))


def test_what_belongs_together_passes(stages: Stages) -> None:
    check_before_start(stages)
    set_teachers_labels(stages, {"background": 0, "front part": 1, "Back": 2})  # a name may differ
    check_before_start(stages)


def test_the_recipes_labels_are_the_datasets(stages: Stages) -> None:
    pack = replace(stages.recipe.pack, labels=stages.recipe.pack.labels[:1])
    with pytest.raises(TrainingError, match=r"describes the labels \[1\], but Dataset901_Spheres has \[1, 2\]"):
        check_before_start(replace(stages, recipe=replace(stages.recipe, pack=pack)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "Front": 1}, "are not those of Dataset901_Spheres"),
        ({"background": 0, "Front": 2, "Back": 1}, "gives Front, Back another value"),
        ({"background": 0, "whole": [1, 2], "Back": 2}, "its labels are regions"),
        (None, "cannot be read"),
    ],
)
def test_a_teacher_of_other_labels_is_refused(stages: Stages, labels: object, message: str) -> None:
    set_teachers_labels(stages, labels)
    with pytest.raises(TeacherError, match=message):
        check_before_start(stages)

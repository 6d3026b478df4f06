from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("yaml", reason="install the extra 'distill'")

from distillation.recipe_file import read_recipe
from distillation.training_settings import (
    NNUNETS_OWN,
    PLANS_KEY,
    AugmentationSettings,
    DistillationSettings,
    TeacherSettings,
    TrainingSettings,
)
from KDSegmentatorLib.errors import InvalidSettingsError

SHA, OTHER_SHA = "a" * 64, "b" * 64
LOGIT = {"logit": {"weight": 0.5, "ramp": 0.0, "temperature": 2.0, "deep_supervision": False}}


def run(folder="/a/ws", sha=SHA, **changes):
    sha256 = None if sha is None else (sha,)
    teacher = TeacherSettings(folder=f"{folder}/results/D/Teacher", folds=(0,), sha256=sha256)
    distillation = DistillationSettings(method="logit", teacher=teacher, losses=LOGIT)
    start = f"{folder}/results/D/WarmUp/fold_0/checkpoint_final.pth"
    return replace(TrainingSettings(epochs=3, initial_checkpoint=start, distillation=distillation), **changes)


def with_teacher(settings, **changes):
    teacher = replace(settings.distillation.teacher, **changes)
    return replace(settings, distillation=replace(settings.distillation, teacher=teacher))


def test_a_moved_workspace_is_the_same_run():
    for moved in (run("/b"), run("/b", sha=None)):  # earlier versions did not write the hash
        assert moved != run()
        assert not moved.differing(run())
        assert not run().differing(moved)


def test_a_renamed_teacher_is_known_by_its_hash():
    renamed = with_teacher(run(), folder="/x/y", checkpoint="checkpoint_best.pth")
    assert not renamed.differing(run())
    assert with_teacher(renamed, sha256=None).differing(run())


@pytest.mark.parametrize(
    "other",
    [
        run(sha=OTHER_SHA),
        run(epochs=4),
        run(distillation=None),
        run(distillation=replace(run().distillation, losses={"logit": {**LOGIT["logit"], "weight": 2.0}})),
        run(distillation=replace(run().distillation, losses={**LOGIT, "cwd": {"weight": 1.0}})),
        run(distillation=replace(run().distillation, method="logit-2")),
        with_teacher(run(), folds=(1,)),
        with_teacher(run(), accept_leakage=True),
        run(gradient_checkpointing=True),
        run(initial_checkpoint=None),
        run(initial_checkpoint="/a/ws/results/D/Other/fold_0/checkpoint_final.pth"),
    ],
)
def test_other_runs_are_not_the_same(other):
    assert other.differing(run())
    assert run().differing(other)


def test_settings_that_an_earlier_version_did_not_have_are_as_they_were():
    now = run(distillation=replace(run().distillation, losses={"logit": {**LOGIT["logit"], "correct_only": False}}))
    other = run(distillation=replace(run().distillation, losses={"logit": {**LOGIT["logit"], "correct_only": True}}))
    assert not now.differing(run())
    assert not run().differing(now)
    assert other.differing(run())
    gone = replace(run().distillation, losses={"a loss of another version": {"weight": 1.0}})
    assert not run(distillation=gone).differing(run(distillation=gone))
    assert run(distillation=gone).differing(run())


def test_plans_of_the_version_that_had_logits_only_are_read():
    earlier = {
        "teacher_folder": "/a/ws/results/D/Teacher",
        "teacher_fold": 0,
        "teacher_checkpoint": "checkpoint_final.pth",
        "teacher_sha256": SHA,
        "temperature": 2.0,
        "weight": 0.5,
    }
    found = TrainingSettings.from_plans({PLANS_KEY: {"epochs": 3, "distillation": earlier}})
    assert found == run(initial_checkpoint=None)
    without_hash = {**earlier, "teacher_sha256": None}
    found = TrainingSettings.from_plans({PLANS_KEY: {"epochs": 3, "distillation": without_hash}})
    assert found == run(initial_checkpoint=None, sha=None)


@pytest.mark.parametrize(
    ("folds", "sha256", "message"),
    [((), None, "one or more"), ((0, 0), None, "each once"), ((0, 1), (SHA,), "2 folds .* 1 hashes")],
)
def test_a_teacher_has_folds_with_a_hash_each(folds, sha256, message):
    with pytest.raises(InvalidSettingsError, match=message):
        TeacherSettings(folder="T", folds=folds, sha256=sha256)


def test_a_setting_that_is_missing_or_unknown():
    for distillation in ({"method": "logit"}, {"method": "l", "teacher": {"folder": "T"}, "losses": {}}):
        with pytest.raises(InvalidSettingsError, match="not valid"):
            TrainingSettings.from_plans({PLANS_KEY: {"epochs": 1, "distillation": distillation}})


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "often", True])
def test_shares(value: Any) -> None:
    with pytest.raises(InvalidSettingsError, match="thick_slices is a share and must be 0 to 1"):
        AugmentationSettings(thick_slices=value)


def test_a_recipe_says_it(tmp_path: Any, recipe_text: str) -> None:
    path = tmp_path / "spheres.yaml"
    path.write_text(recipe_text.replace("seed: 7", "seed: 7, augmentation: {random_contrast: 0.3}"))
    recipe = read_recipe(str(path))
    assert recipe.settings(epochs=1).augmentation == AugmentationSettings(random_contrast=0.3)
    for wrong, message in (
        ("random_contrast: 3", r"training\.augmentation: random_contrast is a share"),
        ("label_interpolation: cubic", r"training\.augmentation.*label_interpolation.*(linear|nearest)"),
        ("contrast: 0.3", r"training\.augmentation\.contrast: unknown field"),
    ):
        path.write_text(recipe_text.replace("seed: 7", f"seed: 7, augmentation: {{{wrong}}}"))
        with pytest.raises(InvalidSettingsError, match=message):
            read_recipe(str(path))


def test_it_travels_in_the_plans() -> None:
    settings = TrainingSettings(epochs=1, augmentation=AugmentationSettings(bias_field=0.5, thick_slices=0.25))
    plans = json.loads(json.dumps({PLANS_KEY: settings.to_plans()}))
    assert TrainingSettings.from_plans(plans) == settings
    assert settings.differing(TrainingSettings(epochs=1))
    del plans[PLANS_KEY]["augmentation"]  # written by an earlier version
    assert TrainingSettings.from_plans(plans).augmentation == NNUNETS_OWN
    plans[PLANS_KEY]["augmentation"] = {"colour": 1}
    with pytest.raises(InvalidSettingsError, match="not valid"):
        TrainingSettings.from_plans(plans)

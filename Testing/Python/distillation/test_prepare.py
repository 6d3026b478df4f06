import json
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.dataset import read_dataset
from distillation.launch import Workspace
from distillation.prepare import PreparedDataset, find_prepared, plans_name
from distillation.recipe import DatasetRecipe
from distillation.splits import write_splits
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError


def splits_of(folder):
    return json.loads((folder / "splits_final.json").read_text())


def test_plans_are_named_after_the_planner_and_what_the_recipe_changes():
    def name(planner="ExperimentPlanner", **changes):
        return plans_name(DatasetRecipe(name="Dataset901_Spheres", title="Spheres", planner=planner, **changes))

    assert name() == "nnUNetPlans"
    assert name("nnUNetPlannerResEncM") == "nnUNetResEncUNetMPlans"
    assert name(memory_target_gb=1.5, maximum_features=128) == "nnUNetPlans_1_5gb_max128"
    assert name(spacing=(1.5, 2.0, 1.0)) == "nnUNetPlans_1_5x2x1mm"
    with pytest.raises(InvalidSettingsError, match="NoSuchPlanner"):
        name("NoSuchPlanner")
    for change in ({"memory_target_gb": 0.0}, {"maximum_features": 0}, {"spacing": (1.0, 0.0, 1.0)}):
        with pytest.raises(InvalidSettingsError, match=next(iter(change))):
            name(**change)


def preprocessed(workspace, raw, plans):
    """Make the files that tell that a dataset is prepared."""
    folder = workspace.preprocessed / raw.folder.name
    (folder / "nnUNetPlans_3d_fullres").mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    write_splits(raw, folder)
    for case in raw.cases:
        (folder / "nnUNetPlans_3d_fullres" / f"{case.name}.pkl").touch()
    return folder


def test_complete_and_incomplete_preprocessing(spheres, recipe, plans, tmp_path):
    workspace, raw = Workspace.below(tmp_path), read_dataset(spheres)
    assert find_prepared(workspace, recipe.dataset, raw) is None
    folder = preprocessed(workspace, raw, plans())
    found = find_prepared(workspace, recipe.dataset, raw)
    assert found.plans == plans()
    assert found.held_out_cases(0) == tuple(sorted(splits_of(folder)[0]["val"]))
    (folder / "nnUNetPlans_3d_fullres" / "case_03.pkl").unlink()
    assert find_prepared(workspace, recipe.dataset, raw) is None


def test_data_prepared_before_its_cases_were_grouped(spheres, recipe, plans, tmp_path):
    workspace, raw = Workspace.below(tmp_path), read_dataset(spheres)
    first = splits_of(preprocessed(workspace, raw, plans()))[0]
    together = replace(recipe.dataset, groups=((first["train"][0], first["val"][0]),))
    with pytest.raises(TrainingError, match="part of the group"):
        find_prepared(workspace, together, raw)


def test_a_teacher_with_other_preprocessing_is_refused(spheres, recipe, plans, tmp_path):
    workspace, raw = Workspace.below(tmp_path), read_dataset(spheres)
    preprocessed(workspace, raw, plans())
    assert find_prepared(workspace, recipe.dataset, raw, plans(features=(8, 16))).plans == plans(features=(8, 16))
    teacher = plans()
    teacher["configurations"]["3d_fullres"]["spacing"] = [2.0, 1.0, 1.0]
    with pytest.raises(TrainingError, match="preprocessed differently"):
        find_prepared(workspace, recipe.dataset, raw, teacher)


@pytest.mark.parametrize("content", ["", "[{", "{}x", '[{"train": []}]', "[1]", "3"])
def test_a_damaged_split_is_named(spheres, tmp_path, content):
    raw = read_dataset(spheres)
    (tmp_path / "splits_final.json").write_text(content)
    prepared = PreparedDataset(raw=raw, folder=tmp_path, plans={})
    for read in (lambda: prepared.held_out_cases(0), lambda: write_splits(raw, tmp_path)):
        with pytest.raises(TrainingError, match=r"splits_final\.json.*kdseg-distill prepare"):
            read()


def test_a_split_without_the_fold(spheres, tmp_path):
    (tmp_path / "splits_final.json").write_text('[{"train": ["case_00"], "val": ["case_01"]}]')
    prepared = PreparedDataset(raw=read_dataset(spheres), folder=tmp_path, plans={})
    assert prepared.held_out_cases(0) == ("case_01",)
    with pytest.raises(TrainingError, match="no fold 1"):
        prepared.held_out_cases(1)

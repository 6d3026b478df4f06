from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("yaml", reason="install the extra 'distill'")

from distillation.augmentation.settings import NNUNETS_OWN, AugmentationSettings
from distillation.recipe import read_recipe
from distillation.settings import PLANS_KEY, TrainingSettings
from KDSegmentatorLib.errors import InvalidSettingsError


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
    assert not settings.same_but_for_place(TrainingSettings(epochs=1))
    del plans[PLANS_KEY]["augmentation"]  # written by an earlier version
    assert TrainingSettings.from_plans(plans).augmentation == NNUNETS_OWN
    plans[PLANS_KEY]["augmentation"] = {"colour": 1}
    with pytest.raises(InvalidSettingsError, match="not valid"):
        TrainingSettings.from_plans(plans)

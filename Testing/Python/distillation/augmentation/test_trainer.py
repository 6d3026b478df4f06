"""Real tiny trainings with our augmentation."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from distillation.augmentation.settings import AugmentationSettings
from distillation.launch import Workspace
from support.tiny_training import PLAIN, checkpoint, folder_of, run, small_plans

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("everything_in_this_process")]

ALWAYS = AugmentationSettings(random_contrast=0.7, bias_field=0.7, thick_slices=0.7)


def weights(space: Workspace, plans: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint(folder_of(space, PLAIN, plans))["network_weights"]
    return found


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_was_broken_off_goes_on_to_the_same_weights(
    prepared_spheres: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 2, "iterations_per_epoch": 2}
    whole, stopped, stock = (
        small_plans(prepared_spheres, f"nnUNetPlans_augmented_{name}", **options, **augmentation)
        for name, augmentation in (("a", {"augmentation": ALWAYS}), ("b", {"augmentation": ALWAYS}), ("c", {}))
    )

    def stopping(self: Any, folder: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalLogger, "plot_progress_png", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(prepared_spheres, stopped)
    for plans in (whole, stopped, stock):
        run(prepared_spheres, plans)
    assert equal(weights(prepared_spheres, whole), weights(prepared_spheres, stopped))
    assert not equal(weights(prepared_spheres, whole), weights(prepared_spheres, stock))

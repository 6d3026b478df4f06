"""Trainings of seconds on generated spheres, for the tests of what really trains."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from distillation.launch import Workspace, train
from distillation.plans import read_plans, student_plans
from distillation.prepare import prepare
from distillation.recipe import DatasetRecipe
from distillation.training_settings import DistillationSettings, TeacherSettings, TrainingSettings

REPOSITORY = Path(__file__).parents[3]
DATASET = "Dataset901_Spheres"
PLAIN, DISTILLING = "KDSegPlainTrainer", "KDSegDistillingTrainer"

LOSSES: dict[str, dict[str, dict[str, Any]]] = {
    "logit": {"logit": {"weight": 1.0, "temperature": 2.0}},
    "reco": {"ms_sard": {"weight": 0.01, "ramp": 0.6}, "ms_ca": {"weight": 0.01, "ramp": 0.6}},
    "cwd": {"cwd": {"weight": 1.0}},
    "heads": {"logit": {"weight": 1.0, "temperature": 2.0, "deep_supervision": True}},
}
LOSSES["logit-reco"] = {**LOSSES["logit"], **LOSSES["reco"]}


def prepare_spheres(space: Workspace) -> None:
    """Prepare the generated dataset with stock nnU-Net."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distillation.prepare._processes", lambda: 1)
        patch.setattr(
            DatasetFingerprintExtractor, "__init__", _with_fewer_samples(DatasetFingerprintExtractor.__init__)
        )
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("nnUNet_n_proc_DA", "0")
        prepare(space, spheres_recipe())


def spheres_recipe() -> DatasetRecipe:
    return DatasetRecipe(name=DATASET, title="Generated spheres")


def settings(**changes: Any) -> TrainingSettings:
    values = {"epochs": 3, "iterations_per_epoch": 2, "validation_iterations": 1, "seed": 3, "precision": "float32"}
    return TrainingSettings(**{**values, **changes})


def small_plans(space: Workspace, name: str, alpha: float = 0.25, **changes: Any) -> dict[str, Any]:
    stock = read_plans(space.preprocessed / DATASET / "nnUNetPlans.json")
    return student_plans(stock, "3d_fullres", alpha=alpha, name=name, settings=settings(**changes))


def distilling(
    space: Workspace, teacher: Path, name: str, method: str = "logit", folds: tuple[int, ...] = (0,), **changes: Any
) -> dict[str, Any]:
    """Plans of a student of a teacher."""
    distillation = DistillationSettings(
        method=method,
        teacher=TeacherSettings(folder=str(teacher), folds=folds, accept_leakage=len(folds) > 1),
        losses=LOSSES[method],
    )
    return small_plans(space, name, distillation=distillation, **changes)


def run(space: Workspace, plans: dict[str, Any], configuration: str = "3d_fullres", fold: int = 0) -> Path:
    return train(space, dataset=DATASET, plans=plans, configuration=configuration, fold=fold)


def folder_of(space: Workspace, trainer: str, plans: dict[str, Any]) -> Path:
    return space.results / DATASET / f"{trainer}__{plans['plans_name']}__3d_fullres"


def checkpoint(folder: Path, name: str = "checkpoint_final.pth") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "fold_0" / name, weights_only=False)
    return content


def trained_along(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the losses trained, in a checkpoint."""
    found: dict[str, torch.Tensor] = content["kdsegmentator"]["trained_along"]
    return found


def make_trainer(space: Workspace, plans: dict[str, Any]) -> Any:
    """A distilling trainer that is ready for its first step; the workspace has to be activated."""
    from distillation.trainers import KDSegDistillingTrainer

    dataset = json.loads((space.preprocessed / DATASET / "dataset.json").read_text())
    trainer = KDSegDistillingTrainer(
        {**plans, "continue_training": False}, "3d_fullres", 0, dataset, torch.device("cpu")
    )
    trainer.initialize()
    return trainer


def environment() -> dict[str, str]:
    """Of a process of its own: worker processes would seed themselves."""
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "Testing" / "Python")])
    return {**os.environ, "nnUNet_n_proc_DA": "0", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def _with_fewer_samples(original: Any) -> Any:
    """Stock nnU-Net draws a hundred million intensities, however small the dataset is."""

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.num_foreground_voxels_for_intensitystats = 10_000

    return init

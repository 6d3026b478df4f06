"""Run nnU-Net with our trainers: environment, start and resume."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillation.plans import read_plans
from distillation.torch_tuning import kept_memory
from distillation.training_settings import PLANS_KEY, TrainingSettings
from KDSegmentatorLib.errors import KDSegmentatorError, TrainingError
from KDSegmentatorLib.io.files import write_json
from KDSegmentatorLib.packs.manifest import Method

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TRAINER_FOLDER = Path(__file__).parent / "nnunet_trainers"

PLAIN_TRAINER = "KDSegPlainTrainer"
DISTILLING_TRAINER = "KDSegDistillingTrainer"

Progress = Literal["new", "started", "done"]
"""How far work is that no record tells of."""

_TO_GO_ON_FROM = ("checkpoint_latest.pth", "checkpoint_best.pth")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The three folders that nnU-Net works in.

    Attributes:
        raw: datasets in nnU-Net raw layout, one ``DatasetXXX_Name`` folder each.
        preprocessed: what ``prepare`` writes.
        results: one model folder a training run.
    """

    raw: Path
    preprocessed: Path
    results: Path

    @classmethod
    def below(cls, folder: Path, raw: Path | None = None) -> Workspace:
        """Return the usual layout below one folder; raw data may lie somewhere else."""
        return cls(raw=raw or folder / "raw", preprocessed=folder / "preprocessed", results=folder / "results")

    @contextmanager
    def activated(self) -> Iterator[None]:
        """Point nnU-Net at these folders and at our trainers, and put the environment back afterwards."""
        values = {
            "nnUNet_raw": str(self.raw.resolve()),
            "nnUNet_preprocessed": str(self.preprocessed.resolve()),
            "nnUNet_results": str(self.results.resolve()),
            "nnUNet_extTrainer": str(TRAINER_FOLDER),
            "nnUNet_compile": "0",
        }
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def train(
    workspace: Workspace,
    *,
    dataset: str,
    plans: dict[str, Any],
    configuration: str,
    fold: int,
    device: str = "cpu",
) -> Path:
    """Train one network, or go on where a killed run stopped.

    The trainer follows from the settings in the plans: with a teacher it distils, without one it trains plainly. Under
    ``torchrun`` all processes call this alike and train together; the workspace has to be a folder that all nodes
    share, and the batch is divided between the processes.

    Args:
        workspace: nnU-Net's folders; the dataset has to be preprocessed.
        dataset: ``DatasetXXX_Name``.
        plans: content of the plans file, with a ``kdsegmentator`` section (:func:`distillation.plans.student_plans`).
        configuration: for example ``3d_fullres``.
        fold: fold of nnU-Net's five-fold split.
        device: ``cpu`` or ``cuda``.

    Returns:
        The model folder (holds ``plans.json``, ``dataset.json``, ``fold_X/checkpoint_final.pth``).

    Raises:
        TrainingError: the dataset is not preprocessed, or a run of the same name was started with other plans.
    """
    return train_side_by_side(
        workspace, dataset=dataset, plans=[plans], configuration=configuration, fold=fold, device=device
    )[0]


def train_side_by_side(
    workspace: Workspace,
    *,
    dataset: str,
    plans: Sequence[dict[str, Any]],
    configuration: str,
    fold: int,
    device: str = "cpu",
) -> list[Path]:
    """Train networks that see the same batches, as :func:`train` does with one, and return their model folders.

    Augmentation is paid for once, and differences between the networks are not those of their batches. Finished ones
    are left out, and one that a kill left behind catches up first.

    Args:
        workspace: nnU-Net's folders.
        dataset: ``DatasetXXX_Name``.
        plans: of each network; with the same seed, length, batch and patch size.
        configuration: for example ``3d_fullres``.
        fold: fold of nnU-Net's five-fold split.
        device: ``cpu`` or ``cuda``.

    Raises:
        TrainingError: as for :func:`train`, or they cannot share batches.
    """
    from distillation import distributed

    distributed.join_processes(device)
    folders, trainers = [], []
    with workspace.activated():
        for each in plans:
            method = method_of(each)
            folder = model_folder(workspace, dataset, method, each["plans_name"], configuration)
            fold_folder = folder / f"fold_{fold}"
            folders.append(folder)
            # the first process decides: another one could see a file that appears in between
            if distributed.from_first((fold_folder / "checkpoint_final.pth").is_file()):
                differing = _differing(read_plans(folder / "plans.json"), each)
                if differing:
                    raise TrainingError(
                        f"{folder} was trained with other settings than the recipe's ({differing}); remove or rename "
                        "it to train again, or put the recipe back"
                    )
                continue
            resume = distributed.from_first(any((fold_folder / name).is_file() for name in _TO_GO_ON_FROM))
            if distributed.process_rank() == 0:
                _write_plans(workspace.preprocessed / dataset, each, started=resume)
            distributed.wait_for_all()
            import torch
            from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

            name, where = trainer_name(method), torch.device(device)
            trainer = get_trainer_from_args(
                dataset, configuration, fold, name, each["plans_name"], resume, device=where
            )
            maybe_load_checkpoint(trainer, resume, False)
            if not trainer.was_initialized:
                trainer.initialize()
            trainers.append(trainer)
        if trainers:
            from distillation.side_by_side import train_together

            with kept_memory() if device == "cpu" else nullcontext():
                train_together(trainers)
            distributed.wait_for_all()
    return folders


def model_folder(workspace: Workspace, dataset: str, method: Method, plans_name: str, configuration: str) -> Path:
    """Return nnU-Net's folder for a training run."""
    return workspace.results / dataset / f"{trainer_name(method)}__{plans_name}__{configuration}"


def trainer_name(method: Method) -> str:
    """Return the class of the trainer for a method."""
    return PLAIN_TRAINER if method == "plain" else DISTILLING_TRAINER


def training_progress(
    workspace: Workspace, *, dataset: str, plans: dict[str, Any], configuration: str, fold: int
) -> Progress:
    """Return what :func:`train` would find with the same arguments.

    A run of the same name with other settings is no progress; :func:`train` refuses to go on with it.
    """
    folder = model_folder(workspace, dataset, method_of(plans), plans["plans_name"], configuration)
    fold_folder = folder / f"fold_{fold}"
    try:
        if (fold_folder / "checkpoint_final.pth").is_file():
            return "done" if _same_run(read_plans(folder / "plans.json"), plans) else "new"
        if any((fold_folder / name).is_file() for name in _TO_GO_ON_FROM):
            started = read_plans(workspace.preprocessed / dataset / f"{plans['plans_name']}.json")
            return "started" if _same_run(started, plans) else "new"
    except KDSegmentatorError:  # damaged plans
        return "new"
    return "new"


def method_of(plans: dict[str, Any]) -> Method:
    """Return the method that plans are for: ``plain`` or the distillation's."""
    settings = TrainingSettings.from_plans(plans)
    teaching = settings.distillation or settings.soft_labels
    return "plain" if teaching is None else teaching.method


def _same_run(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return whether two plans give the same run; paths may differ, so that a workspace can be moved."""
    return not _differing(found, wanted)


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return for people what makes two plans different runs, or an empty text."""
    settings = TrainingSettings.from_plans(found).differing(TrainingSettings.from_plans(wanted))
    keys = sorted((found.keys() | wanted.keys()) - {PLANS_KEY})
    return ", ".join([*settings, *(key for key in keys if found.get(key) != wanted.get(key))])


def _write_plans(folder: Path, plans: dict[str, Any], *, started: bool) -> None:
    if not (folder / "dataset.json").is_file():
        raise TrainingError(f"{folder} holds no preprocessed dataset; run 'kdseg-distill prepare' first")
    path = folder / f"{plans['plans_name']}.json"
    differing = _differing(read_plans(path), plans) if started and path.is_file() else ""
    if differing:
        raise TrainingError(
            f"a run with the plans {path} was started with other settings ({differing}). Finish it with the settings "
            "that it was started with, or remove its results folder"
        )
    write_json(path, plans)

"""Networks that train on one stream of batches, so that they are paired and augmentation is paid for once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from KDSegmentatorLib.errors import TrainingError

if TYPE_CHECKING:
    from distillation.trainers import KDSegPlainTrainer


def train_together(trainers: Sequence[KDSegPlainTrainer]) -> None:
    """Train networks on one stream of batches, so that they are paired and augmentation is paid for once.

    Each keeps its own optimiser, log and checkpoints. A batch depends on the seed and its number alone, so that one
    that a kill left an epoch behind the others sees those that it missed.

    Args:
        trainers: initialised, with the same seed, number of iterations, batch and patch size.

    Raises:
        TrainingError: they do not fit together.
    """
    _check_same_batches(trainers)
    first = next((trainer for trainer in trainers if trainer.soft_label_folder is not None), trainers[0])
    first.on_train_start()
    for trainer in trainers:
        if trainer is not first:
            trainer.shared_loaders = (first.dataloader_train, first.dataloader_val)
            trainer.on_train_start()
    for epoch in range(min(trainer.current_epoch for trainer in trainers), first.num_epochs):
        _train_epoch([trainer for trainer in trainers if trainer.current_epoch == epoch], first)
    for trainer in trainers:
        trainer.on_train_end()


def _train_epoch(trainers: Sequence[KDSegPlainTrainer], source: KDSegPlainTrainer) -> None:
    """Take all steps of an epoch with the batches of one of the trainers."""
    for trainer in trainers:
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
    epoch = trainers[0].current_epoch
    source.dataloader_train.go_to(epoch * source.num_iterations_per_epoch)
    source.dataloader_val.go_to(epoch * source.num_val_iterations_per_epoch)
    steps = [trainer.train_step for trainer in trainers]
    trained = _over_batches(steps, source.dataloader_train, source.num_iterations_per_epoch)
    for trainer, outputs in zip(trainers, trained, strict=True):
        trainer.on_train_epoch_end(outputs)
    with torch.no_grad():
        for trainer in trainers:
            trainer.on_validation_epoch_start()
        checks = [trainer.validation_step for trainer in trainers]
        validated = _over_batches(checks, source.dataloader_val, source.num_val_iterations_per_epoch)
        for trainer, outputs in zip(trainers, validated, strict=True):
            trainer.on_validation_epoch_end(outputs)
    for trainer in trainers:
        trainer.on_epoch_end()


def _over_batches(steps: Sequence[Callable[[Any], Any]], loader: Iterator[Any], count: int) -> list[list[Any]]:
    """Return what each step says of each of ``count`` batches."""
    outputs: list[list[Any]] = [[] for _ in steps]
    for _ in range(count):
        batch = next(loader)
        for step, output in zip(steps, outputs, strict=True):
            output.append(step(batch))
    return outputs


def _check_same_batches(trainers: Sequence[KDSegPlainTrainer]) -> None:
    needs = {
        (
            trainer.settings.seed,
            trainer.num_epochs,
            trainer.num_iterations_per_epoch,
            trainer.batch_size,
            tuple(trainer.configuration_manager.patch_size),
            trainer.settings.mirroring_axes,
            trainer.settings.augmentation,
        )
        for trainer in trainers
    }
    if len(needs) > 1:
        raise TrainingError(
            "trainings side by side need the same seed, epochs, iterations, batch, patch, mirroring and augmentation; "
            f"they have {needs}"
        )
    folders = {str(trainer.soft_label_folder) for trainer in trainers if trainer.soft_label_folder is not None}
    if len(folders) > 1:
        raise TrainingError(f"trainings side by side share one folder of soft labels, not {sorted(folders)}")

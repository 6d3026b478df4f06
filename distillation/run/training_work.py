"""A training as far as its cost goes, and what a few of its steps took."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distillation.augmentation.settings import NNUNETS_OWN, AugmentationSettings

if TYPE_CHECKING:
    from distillation.settings import Optimizer, Precision

NUMBERS_KEPT: dict[Optimizer, int] = {"sgd": 1, "adamw": 3}
"""Numbers that an optimiser keeps of a parameter: momentum; both moments and, with AMSGrad, the largest second one."""


@dataclass(frozen=True, kw_only=True)
class TrainingWork:
    """One training, as far as its cost goes.

    Attributes:
        configuration: resolved configuration of the network to be trained.
        teacher: that of the teacher that runs beside it; None for plain training.
        losses: of the distillation, by name, as :func:`distillation.losses.registry.read_terms` reads them.
        teachers: networks of that configuration whose logits are averaged.
        gradient_checkpointing: whether stages are computed again for the gradient.
        mirroring_axes: array axes that augmentation mirrors.
        augmentation: what is done beyond nnU-Net's own augmentation.
        channels: input channels.
        labels: outputs, background included.
        batch_size: patches a step.
        steps: optimiser steps.
        validation_steps: forward passes between the epochs.
        precision: as in :class:`distillation.settings.TrainingSettings`.
        optimizer: likewise.
    """

    configuration: dict[str, Any]
    teacher: dict[str, Any] | None
    channels: int
    labels: int
    batch_size: int
    steps: int
    validation_steps: int
    precision: Precision = "auto"
    optimizer: Optimizer = "sgd"
    losses: dict[str, dict[str, Any]] = field(default_factory=dict)
    teachers: int = 1
    gradient_checkpointing: bool = False
    mirroring_axes: tuple[int, ...] = (0, 1, 2)
    augmentation: AugmentationSettings = NNUNETS_OWN

    @classmethod
    def from_json(cls, text: str) -> TrainingWork:
        """Return the work that was written as JSON, ``asdict`` of it."""
        content = json.loads(text)
        return cls(**{**content, "augmentation": AugmentationSettings(**content["augmentation"])})

    def seconds(self, measured: MeasuredSteps, *, processes: int = 0) -> float:
        """Return how long it will take.

        Args:
            measured: of a few steps.
            processes: how many augment beside the training; 0 if it does so itself, between its steps.
        """
        augmenting = self.batch_size * measured.augmentation_seconds
        step = measured.step_seconds
        step = step + augmenting if processes == 0 else max(step, augmenting / processes)
        return self.steps * step + self.validation_steps * measured.validation_seconds


@dataclass(frozen=True, kw_only=True)
class MeasuredSteps:
    """What a few steps took.

    Attributes:
        step_seconds: one optimiser step, teacher and losses included.
        validation_seconds: one forward pass of a batch.
        augmentation_seconds: augmenting one patch, in one process.
        peak_bytes: largest memory of the process; None where the operating system does not tell.
    """

    step_seconds: float
    validation_seconds: float
    augmentation_seconds: float
    peak_bytes: int | None

"""What the losses between encoder features share: they go stage by stage, and stages have weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from distillation.losses.term import DistillationTerm, Signals, check_same_shape, full_precision, without_autocast
from KDSegmentatorLib.errors import InvalidSettingsError


@dataclass(frozen=True, kw_only=True)
class FeatureLoss(DistillationTerm):
    """A loss between the features of single encoder stages.

    The bottleneck is left out. Stage l has a weight proportional to 2^(-3 a l), l = 0 at full resolution; the weights
    add up to 1. (A stage has 2^(-3 l) of the voxels, so that a = 1 would weigh every voxel alike.)

    Attributes:
        stage_decay: a, >= 0.

    Source:
        ReCo-KD: Region- and Context-Aware Knowledge Distillation for Efficient 3D Medical Image Segmentation
        (arXiv 2601.08301) and its published code.
    """

    uses_features: ClassVar[bool] = True
    uses_logits: ClassVar[bool] = False

    stage_decay: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stage_decay >= 0:
            raise InvalidSettingsError(f"stage_decay must be >= 0, got {self.stage_decay}")

    def __call__(
        self, student: Signals, teacher: Signals, labels: Sequence[torch.Tensor], parts: nn.Module
    ) -> torch.Tensor:
        """Return the loss; see :class:`DistillationTerm`."""
        stages = len(student.features)
        of_stages = list(parts.children()) or [nn.Identity()] * stages
        losses = []
        with without_autocast(student.features[0].device):
            for own, teachers, stage_labels, stage_parts in zip(
                student.features, teacher.features, labels[:stages], of_stages, strict=True
            ):
                check_same_shape(own, teachers, "features")
                losses.append(
                    self.of_stage(full_precision(own), full_precision(teachers).detach(), stage_labels, stage_parts)
                )
        weights = losses[0].new_tensor(stage_weights(stages, self.stage_decay))
        return (weights * torch.stack(losses)).sum()

    @abstractmethod
    def of_stage(
        self, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, parts: nn.Module
    ) -> torch.Tensor:
        """Return the loss of one stage.

        Args:
            student: features (batch, channels, z, y, x), mapped to the teacher's channels, float32 or float64.
            teacher: features of the same shape; constant.
            labels: label map (batch, 1, z, y, x).
            parts: the stage's own part of what ``trained_parts`` returned, if anything.
        """


def stage_weights(stages: int, decay: float) -> list[float]:
    """Return weights proportional to 2^(-3 a l) for l = 0, 1, ..., that add up to 1."""
    weights = [2.0 ** (-3 * decay * stage) for stage in range(stages)]
    return [weight / sum(weights) for weight in weights]

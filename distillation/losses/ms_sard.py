"""MS-SARD of ReCo-KD: features compared region by region, where and in the channels that the teacher attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from distillation.distributed import mean_over_processes
from distillation.losses.features import FeatureLoss
from KDSegmentatorLib.errors import InvalidSettingsError

_LABEL_VALUES = 1 << 15
"""Those that nnU-Net's int16 holds. A fixed number: the largest one in a batch would have to be waited for on a GPU."""


@dataclass(frozen=True, kw_only=True)
class MsSardLoss(FeatureLoss):
    r"""Multi-scale, scale- and attention-aware region distillation: L_fg + L_bg + L_att at every stage.

    .. math::
        A^{sp} = N\,\mathrm{softmax}_u\Big(\tfrac{1}{C}\sum_c |F|/T\Big), \qquad
        A^{ch} = C\,\mathrm{softmax}_c\Big(\tfrac{1}{N}\sum_u |F|/T\Big)

        L_{fg}, L_{bg} = \frac{\sum_{b,u} M \sum_c A^{sp}_T A^{ch}_T (F_T - F_S)^2}{C \sum_{b,u} M}

        L_{att} = \mathrm{mean}|A^{ch}_S - A^{ch}_T| + \mathrm{mean}|A^{sp}_S - A^{sp}_T|

    with N voxels and C channels. The masks come from the labels at the stage's resolution, patch by patch:
    M_fg(u) = 1/N_c where y_u = c >= 1, so that every class present weighs the same however small it is, and
    M_bg(u) = 1/N_bg where y_u = 0. A class without a voxel drops out of numerator and denominator; without any
    foreground (or background) in the batch that part is 0.

    Attributes:
        temperature: T of both attentions, > 0.
        foreground: coefficient of L_fg, >= 0.
        background: coefficient of L_bg, >= 0.
        attention: coefficient of L_att, >= 0.

    Unit: squared feature units for L_fg and L_bg; L_att has none (both attentions have the mean 1).

    Source:
        ReCo-KD (arXiv 2601.08301), after FGD (Yang et al., Focal and Global Knowledge Distillation for Detectors,
        CVPR 2022).
    """

    name: ClassVar[str] = "ms_sard"

    temperature: float = 0.5
    foreground: float = 1.0
    background: float = 1.0
    attention: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise InvalidSettingsError(f"temperature must be > 0, got {self.temperature}")
        for part in ("foreground", "background", "attention"):
            if not getattr(self, part) >= 0:
                raise InvalidSettingsError(f"{part} must be >= 0, got {getattr(self, part)}")

    def of_stage(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
        parts: nn.Module,  # noqa: ARG002 - all feature losses are called alike
    ) -> torch.Tensor:
        """Return the loss of one stage; see :class:`FeatureLoss`."""
        foreground, background = region_masks(labels)
        if foreground.shape[1:] != student.shape[2:]:
            raise ValueError(f"labels {tuple(labels.shape)} are not at the features' resolution {tuple(student.shape)}")
        with torch.no_grad():
            teacher_spatial, teacher_channel = attentions(teacher, self.temperature)
        student_spatial, student_channel = attentions(student, self.temperature)
        # (batch, z, y, x): the attended error of each voxel, averaged over channels
        error = torch.einsum("bczyx,bc->bzyx", (student - teacher).square(), teacher_channel / student.shape[1])
        error = error * teacher_spatial
        attention = (student_channel - teacher_channel).abs().mean() + (student_spatial - teacher_spatial).abs().mean()
        return (
            self.foreground * _masked_mean(error, foreground.to(error.dtype))
            + self.background * _masked_mean(error, background.to(error.dtype))
            + self.attention * attention
        )


def attentions(features: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A_sp, (batch, z, y, x), with the mean 1 over each patch, and A_ch, (batch, channels), with the mean 1.

    Args:
        features: (batch, channels, z, y, x).
        temperature: T.
    """
    magnitude = features.abs()  # once for both: memory traffic is what this loss costs
    voxels, channels = features[0, 0].numel(), features.shape[1]
    over_channels = magnitude.sum(dim=1) / channels
    over_voxels = magnitude.sum(dim=(2, 3, 4)) / voxels
    spatial = voxels * torch.softmax(over_channels.flatten(1) / temperature, dim=1)
    return spatial.view_as(over_channels), channels * torch.softmax(over_voxels / temperature, dim=1)


def region_masks(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return M_fg and M_bg, (batch, z, y, x), float64: 1/N_c at the voxels of each class c, 1/N_0 at background.

    Args:
        labels: (batch, 1, z, y, x), whole numbers from 0 to 32767 in any type.
    """
    flat = labels.detach().flatten(1).long()
    counts = torch.zeros(flat.shape[0], _LABEL_VALUES, dtype=torch.float64, device=flat.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    inverse = counts.clamp_min(1).reciprocal().gather(1, flat).view(labels.shape[0], *labels.shape[2:])
    background = (flat == 0).view_as(inverse)
    return inverse.masked_fill(background, 0), inverse.masked_fill(~background, 0)


def _masked_mean(error: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return sum(mask * error) / sum(mask), 0 for an empty mask; the denominator is that of all processes."""
    denominator = mean_over_processes(mask.sum())
    # the mask's sum is the number of (patch, class) pairs, so that it is 0 or at least 1 (1/processes in the mean)
    return (mask * error).sum() / denominator.clamp_min(torch.finfo(mask.dtype).tiny)

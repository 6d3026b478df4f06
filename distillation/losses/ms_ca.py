"""MS-CA of ReCo-KD: the relations between voxels, as global context or as pooled affinities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import nn
from torch.nn import functional

from distillation.losses.features import FeatureLoss
from KDSegmentatorLib.errors import InvalidSettingsError


@dataclass(frozen=True, kw_only=True)
class MsCaLoss(FeatureLoss):
    r"""Multi-scale context alignment, in one of two forms.

    ``context`` (the published code's): L = MSE(R_S(F_S), R_T(F_T)), where R adds a global context to every voxel
    (:class:`GlobalContext`). R_S and R_T are trained along with the student.

    ``affinity`` (the paper's words, "aligns affinity patterns"): features are averaged over at most ``pooled`` cells an
    axis and normalised to unit length at every cell, and L = MSE(G_S, G_T) over the cosines G = f^T f between cells.
    Nothing is trained along.

    Attributes:
        form: ``context`` or ``affinity``.
        pooled: cells an axis of the affinity form, >= 1; memory grows with its sixth power.

    Unit: squared feature units (context); none (affinity).

    Source:
        ReCo-KD (arXiv 2601.08301) and its published code; the context block is that of GCNet (Cao et al., 2019), the
        affinity that of Liu et al., Structured Knowledge Distillation for Dense Prediction, 2020.
    """

    name: ClassVar[str] = "ms_ca"

    form: Literal["context", "affinity"] = "context"
    pooled: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooled < 1:
            raise InvalidSettingsError(f"pooled must be at least 1, got {self.pooled}")

    def trained_parts(self, widths: Sequence[int]) -> nn.Module:
        """Return R_S and R_T of each stage, for the context form."""
        if self.form == "affinity":
            return nn.ModuleList()
        return nn.ModuleList(
            nn.ModuleDict({"student": GlobalContext(width), "teacher": GlobalContext(width)}) for width in widths
        )

    def of_stage(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,  # noqa: ARG002 - all feature losses are called alike
        parts: nn.Module,
    ) -> torch.Tensor:
        """Return the loss of one stage; see :class:`FeatureLoss`."""
        if self.form == "affinity":
            return functional.mse_loss(affinity(student, self.pooled), affinity(teacher, self.pooled))
        relations = cast("nn.ModuleDict", parts)
        return functional.mse_loss(relations["student"](student), relations["teacher"](teacher))


class GlobalContext(nn.Module):
    r"""R(F) = F + W_2 ReLU(GN(W_1 \sum_u softmax_u(w . F) F_u)): one context vector, added to every voxel.

    W_2 starts at 0, so that R starts as the identity. The normalisation has one group: a context vector has one value
    a channel, and several small groups would normalise most of it away.

    Args:
        channels: C; the hidden layer has C/2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.attention = nn.Conv3d(channels, 1, kernel_size=1)
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.GroupNorm(1, hidden)
        self.expand = nn.Linear(hidden, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, z, y, x) to the same shape."""
        weights = torch.softmax(self.attention(features).flatten(1), dim=1)
        context = torch.einsum("bcu,bu->bc", features.flatten(2), weights)
        context = self.expand(torch.relu(self.norm(self.reduce(context))))
        related: torch.Tensor = features + context[:, :, None, None, None]
        return related


def affinity(features: torch.Tensor, pooled: int) -> torch.Tensor:
    """Return the cosines between the cells of a pooled feature map, (batch, cells, cells).

    Args:
        features: (batch, channels, z, y, x).
        pooled: cells an axis, at most; an axis with fewer voxels keeps them.
    """
    depth, height, width = (min(pooled, size) for size in features.shape[2:])
    cells = functional.adaptive_avg_pool3d(features, (depth, height, width)).flatten(2)
    # a cell of zeros has no direction: its cosines are 0, and eps keeps its gradient finite
    cells = functional.normalize(cells, dim=1, eps=1e-6)
    return cells.transpose(1, 2) @ cells

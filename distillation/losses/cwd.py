"""Channel-wise distillation (CWD): each channel's distribution over space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from distillation.losses.features import FeatureLoss
from KDSegmentatorLib.errors import InvalidSettingsError


@dataclass(frozen=True, kw_only=True)
class CwdLoss(FeatureLoss):
    r"""KL divergence between the channels' softmaxes over all voxels of a patch.

    .. math::
        L = \frac{\tau^2}{B\,C} \sum_{b,c} \sum_u \phi(F_T)_{c,u} \log\frac{\phi(F_T)_{c,u}}{\phi(F_S)_{c,u}}, \qquad
        \phi(F)_{c,u} = \mathrm{softmax}_u(F_{c,u} / \tau)

    The plain feature baseline: it has neither regions nor context. Stages are the ReCo losses' stages.

    Attributes:
        temperature: tau, > 0.

    Unit: nats times tau squared, >= 0.

    Source:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021.
    """

    name: ClassVar[str] = "cwd"

    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise InvalidSettingsError(f"temperature must be > 0, got {self.temperature}")

    def of_stage(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,  # noqa: ARG002 - all feature losses are called alike
        parts: nn.Module,  # noqa: ARG002
    ) -> torch.Tensor:
        """Return the loss of one stage; see :class:`FeatureLoss`."""
        own, teachers = (torch.log_softmax(each.flatten(2) / self.temperature, dim=2) for each in (student, teacher))
        divergence = functional.kl_div(own, teachers, reduction="sum", log_target=True)
        return divergence * (self.temperature**2 / (student.shape[0] * student.shape[1]))

"""Logit distillation: the temperature-softened Kullback-Leibler divergence from teacher to student."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from KDSegmentatorLib.errors import InvalidSettingsError


class LogitDistillationLoss(nn.Module):
    r"""Voxel-wise KL divergence between softened class distributions.

    .. math::
        L_{KD} = \tau^2 \frac{1}{|\Omega|} \sum_{u \in \Omega} \sum_c p^T_c(u) \log\frac{p^T_c(u)}{p^S_c(u)},
        \qquad p = \mathrm{softmax}(z / \tau)

    with :math:`\Omega` all voxels of all patches in the batch: the sum runs over classes, the mean over voxels only.
    (``kl_div(reduction="mean")`` would divide by the number of classes as well; ``"batchmean"`` on an unflattened
    tensor would be larger by the number of voxels.) The factor tau squared keeps the gradient's size independent of the
    temperature.

    Everything is computed in float32, whatever the logits come in: probabilities of rare classes vanish in half
    precision. No gradient flows to the teacher.

    Args:
        temperature: tau, > 0.
        chunk_voxels: voxels that are handled at once. It bounds the memory of the softmax tensors (111 classes on a
            160x192x160 patch are 2.2 GB for one float32 tensor); the value of the loss does not depend on it.

    Raises:
        InvalidSettingsError: the temperature or the chunk is not positive.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015; Lan et al., From Performance to Practice:
        Knowledge-Distilled Segmentator for On-Premises Clinical Workflows.
    """

    def __init__(self, temperature: float = 2.0, chunk_voxels: int = 1 << 20) -> None:
        super().__init__()
        if not temperature > 0:
            raise InvalidSettingsError(f"temperature must be > 0, got {temperature}")
        if chunk_voxels < 1:
            raise InvalidSettingsError(f"chunk_voxels must be at least 1, got {chunk_voxels}")
        self.temperature = temperature
        self.chunk_voxels = chunk_voxels

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        """Return the loss.

        Args:
            student_logits: (batch, classes, *spatial).
            teacher_logits: the same shape; treated as constant.

        Returns:
            A float32 scalar, >= 0, in nats times tau squared.

        Raises:
            ValueError: the shapes differ, as they do when teacher and student were planned with different labels.
        """
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(
                f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} "
                "differ in shape; teacher and student need the same labels and patch size"
            )
        student = _voxels_by_classes(student_logits)
        teacher = _voxels_by_classes(teacher_logits.detach())
        total = student.new_zeros((), dtype=torch.float32)
        for start in range(0, student.shape[0], self.chunk_voxels):
            voxels = slice(start, start + self.chunk_voxels)
            total = total + functional.kl_div(
                functional.log_softmax(student[voxels].float() / self.temperature, dim=1),
                functional.log_softmax(teacher[voxels].float() / self.temperature, dim=1),
                reduction="sum",
                log_target=True,
            )
        return total * (self.temperature**2 / student.shape[0])


def _voxels_by_classes(logits: torch.Tensor) -> torch.Tensor:
    """Reorder (batch, classes, *spatial) to (batch * voxels, classes)."""
    return logits.movedim(1, -1).reshape(-1, logits.shape[1])

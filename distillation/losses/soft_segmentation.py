"""Cross-entropy and Dice against a teacher's probabilities, the loss of students that learn from soft labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from distillation.losses.term import check_same_shape, without_autocast
from distillation.losses.voxel_rows import as_rows, chunks, empty_gradient, log_softmax

_SMOOTH = 1e-5  # nnU-Net's own


class SoftSegmentationLoss(nn.Module):
    r"""Cross-entropy plus the Dice semimetric loss, between logits and soft labels.

    .. math::
        L = -\frac{1}{N} \sum_{u, c} q_c(u) \log p_c(u)
            + \frac{1}{K} \sum_{c \ge 1} \frac{\sum_u |p_c(u) - q_c(u)|}{\sum_u (p_c(u) + q_c(u)) + \epsilon},
        \qquad p = \mathrm{softmax}(z)

    with N voxels and K foreground classes. The usual soft Dice is not smallest at p = q where q is not 0 or 1; this
    form is, and equals it for hard labels. Dice is taken over the whole batch.

    The gradient is in closed form, computed for a few thousand voxels at a time: with
    :math:`g_c = \frac{1}{K} (\mathrm{sign}(p_c - q_c) / S_c - D_c / S_c^2)` for c >= 1 and 0 for the background,

    .. math::
        \frac{\partial L}{\partial z_c} = \frac{p_c - q_c}{N} + p_c \left(g_c - \sum_k p_k g_k\right).

    Source:
        Wang et al., Dice Semimetric Losses: Optimizing the Dice Score with Soft Labels, MICCAI 2023 (DML1).
    """

    def forward(self, logits: torch.Tensor, soft_labels: torch.Tensor) -> torch.Tensor:
        """Return the loss, a float32 scalar (float64 for float64 logits).

        Args:
            logits: (batch, classes, z, y, x); reduced precision is widened voxel by voxel.
            soft_labels: probabilities of the same shape; they add up to 1 in each voxel and get no gradient.

        Raises:
            ValueError: the shapes differ.
        """
        check_same_shape(logits, soft_labels, "probabilities")
        with without_autocast(logits.device):
            loss: torch.Tensor = _SoftSegmentation.apply(logits, soft_labels)
        return loss


class _SoftSegmentation(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logits: torch.Tensor, soft_labels: torch.Tensor) -> torch.Tensor:
        # millions of voxels are more than a float32 can count one by one
        differences = logits.new_zeros(logits.shape[1], dtype=torch.float64)
        sums = torch.zeros_like(differences)
        entropy = differences.new_zeros(())
        for patch, soft in zip(logits, soft_labels, strict=True):
            rows, targets = as_rows(patch), as_rows(soft)
            for chunk in chunks(rows):
                log_p = log_softmax(rows[chunk])
                p, q = log_p.exp(), targets[chunk].to(log_p.dtype)
                entropy -= (q * log_p).sum(dtype=torch.float64)
                differences += (p - q).abs().sum(0, dtype=torch.float64)
                sums += (p + q).sum(0, dtype=torch.float64)
        sums += _SMOOTH
        voxels = logits[:, 0].numel()
        context.save_for_backward(logits, soft_labels, differences, sums)
        loss = entropy / voxels + (differences / sums)[1:].mean()
        return loss.to(torch.promote_types(logits.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(context: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, soft_labels, differences, sums = context.saved_tensors
        voxels, foreground = logits[:, 0].numel(), logits.shape[1] - 1
        exact = torch.promote_types(logits.dtype, torch.float32)
        slope = (1 / sums / foreground).to(exact)
        offset = (differences / sums**2 / foreground).to(exact)
        slope[0] = offset[0] = 0  # Dice leaves out the background
        gradient = empty_gradient(logits)
        for patch, soft, out in zip(logits, soft_labels, gradient, strict=True):
            rows, targets, out_rows = as_rows(patch), as_rows(soft), as_rows(out)
            for chunk in chunks(rows):
                p = log_softmax(rows[chunk]).exp()
                difference = p - targets[chunk].to(p.dtype)
                g = difference.sign() * slope - offset
                g -= (p * g).sum(1, keepdim=True)
                out_rows[chunk] = scale * (difference / voxels + p * g)
        return gradient, None

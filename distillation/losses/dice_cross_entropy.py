"""Segmentation losses: nnU-Net's own in little memory, and cross-entropy and Dice against soft labels."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import nn
from torch.autograd.function import once_differentiable

from distillation.losses.term import (
    as_rows,
    check_labels,
    check_same_shape,
    chunks,
    empty_gradient,
    full_precision,
    log_softmax,
    without_autocast,
)

MANY_CLASSES = 8
"""Classes from which this is the faster loss: Testing/Benchmarks, part ``loss``."""

_SMALLEST = 1e-8  # nnU-Net's own bound of Dice's denominator


class DiceCrossEntropyLoss(nn.Module):
    r"""Soft Dice of the foreground classes plus cross-entropy: the value and the gradient of nnU-Net's.

    .. math::
        L = -\frac{1}{K} \sum_{c \ge 1} \frac{2 I_c + \epsilon}{G_c + P_c + \epsilon}
            - \frac{1}{N} \sum_u \log p_{y(u)}(u),
        \qquad I_c = \sum_{u:\, y(u) = c} p_c(u), \quad P_c = \sum_u p_c(u), \quad p = \mathrm{softmax}(z)

    with y the true class and G_c the number of voxels of class c. Sums run over the patch, or over the batch
    (``batch_dice``); K counts the foreground classes, times the patches where Dice is taken of each.

    nnU-Net computes a softmax, a one-hot label map, their products and a second softmax over all classes at once, and
    autograd keeps and passes through them all again. For 46 classes on a CPU that is more than half of a narrow
    student's step. Here both parts share one softmax of a few thousand voxels at a time, and so does the closed-form
    gradient: with A_c = dL/dP_c and B_c = dL/dI_c,

    .. math::
        \frac{\partial L}{\partial z_c} = p_c \left(A_c + \tfrac{1}{N} - s\right)
            + [c = y] \left(B_y p_y - \tfrac{1}{N}\right), \qquad s = \sum_k A_k p_k + B_y p_y.

    Attributes:
        batch_dice: Dice over all patches of a batch together.
        smooth: epsilon.

    Source:
        Isensee et al., nnU-Net, Nature Methods 2021; ``DC_and_CE_loss`` with ``MemoryEfficientSoftDiceLoss``.
    """

    def __init__(self, *, batch_dice: bool, smooth: float) -> None:
        super().__init__()
        self.batch_dice = batch_dice
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss, a float32 scalar (float64 for float64 logits).

        Args:
            logits: (batch, classes, z, y, x); reduced precision is widened voxel by voxel.
            labels: true classes (batch, 1, z, y, x), whole numbers of any type.

        Raises:
            ValueError: the shapes do not fit together.
        """
        check_labels(logits, labels)
        with without_autocast(logits.device):
            loss: torch.Tensor = _DiceCrossEntropy.apply(logits, labels, self.batch_dice, self.smooth)
        return loss


def segmentation_loss(loss: nn.Module, device: torch.device, classes: int) -> nn.Module:
    """Return nnU-Net's loss for logits of any precision, and on a CPU in its faster form where that is one.

    Args:
        loss: as nnU-Net built it, for the outputs of one resolution or in its ``DeepSupervisionWrapper``, which is
            changed. Regions, an ignore label and Dice over several processes are left to nnU-Net.
        device: that of the training; ``meta`` counts as a CPU.
        classes: of the logits, background included; of few of them, nnU-Net's passes cost less than ours.
    """
    inner: Any = getattr(loss, "loss", loss)
    if device.type not in ("cpu", "meta") or classes < MANY_CLASSES or not _is_plain(inner):
        return _Widened(loss)
    ours = DiceCrossEntropyLoss(batch_dice=inner.dc.batch_dice, smooth=inner.dc.smooth)
    if inner is loss:
        return ours
    loss.loss = ours
    return loss


def _is_plain(loss: Any) -> bool:
    """Return whether this is what :class:`DiceCrossEntropyLoss` computes."""
    if not isinstance(loss, DC_and_CE_loss) or not isinstance(loss.dc, MemoryEfficientSoftDiceLoss):
        return False
    dice, entropy = loss.dc, loss.ce
    stock = RobustCrossEntropyLoss()
    settings = ("weight", "label_smoothing", "reduction", "ignore_index")
    return (
        loss.ignore_label is None
        and (loss.weight_ce, loss.weight_dice) == (1, 1)
        and dice.apply_nonlin is softmax_helper_dim1
        and not dice.do_bg
        and not (dice.ddp and dice.batch_dice)
        and type(entropy) is RobustCrossEntropyLoss
        and all(getattr(entropy, name) == getattr(stock, name) for name in settings)
    )


class _Widened(nn.Module):
    """A loss that computes in the precision of its logits, given float32."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self, logits: torch.Tensor | list[torch.Tensor], labels: torch.Tensor | list[torch.Tensor]
    ) -> torch.Tensor:
        wide = logits.float() if isinstance(logits, torch.Tensor) else [each.float() for each in logits]
        loss: torch.Tensor = self.loss(wide, labels)
        return loss


class _DiceCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, logits: torch.Tensor, labels: torch.Tensor, batch_dice: bool, smooth: float
    ) -> torch.Tensor:
        patches, classes = logits.shape[:2]
        # millions of voxels are more than a float32 can count one by one
        sums = logits.new_zeros((3, patches, classes), dtype=torch.float64)
        surprise = sums.new_zeros(())
        for patch in range(patches):
            rows, own = as_rows(logits[patch]), labels[patch].flatten().long()
            for chunk in chunks(rows):
                log_p, y = log_softmax(rows[chunk]), own[chunk]
                log_p_true = log_p.gather(1, y[:, None])[:, 0].double()
                surprise -= log_p_true.sum()
                sums[0, patch].index_add_(0, y, log_p_true.exp())
                sums[1, patch] += log_p.exp_().sum(0)
                sums[2, patch].index_add_(0, y, torch.ones_like(log_p_true))
        if batch_dice:
            sums = sums.sum(1, keepdim=True)
        twice, both = 2 * sums[0, :, 1:] + smooth, (sums[1, :, 1:] + sums[2, :, 1:] + smooth).clamp_min(_SMALLEST)
        # dL/dP and dL/dI of every class; nothing of the background, and the same for all patches of a batch's Dice
        slopes = torch.zeros_like(sums[:2])
        slopes[0, :, 1:] = twice / both.square() / twice.numel()
        slopes[1, :, 1:] = -2 / both / twice.numel()
        wide = full_precision(logits.new_empty(0)).dtype
        context.save_for_backward(logits, labels, slopes.to(wide).expand(2, patches, classes))
        return (surprise * (classes / logits.numel()) - (twice / both).mean()).to(wide)

    @staticmethod
    @once_differentiable
    def backward(context: Any, incoming: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        logits, labels, slopes = context.saved_tensors
        of_predicted, of_overlap = slopes * incoming
        of_surprise = incoming * (logits.shape[1] / logits.numel())
        gradient = empty_gradient(logits)
        for patch in range(len(logits)):
            rows, own, result = as_rows(logits[patch]), labels[patch].flatten().long(), as_rows(gradient[patch])
            for chunk in chunks(rows):
                p, y = log_softmax(rows[chunk]).exp_(), own[chunk, None]
                at_true = of_overlap[patch][y] * p.gather(1, y)
                with without_autocast(p.device):
                    shift = of_surprise - at_true - (p @ of_predicted[patch])[:, None]
                p *= of_predicted[patch] + shift
                result[chunk] = p.scatter_add_(1, y, at_true - of_surprise)
        return gradient, None, None, None


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

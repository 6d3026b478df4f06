"""Logit distillation: the temperature-softened Kullback-Leibler divergence from teacher to student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from distillation.losses.term import (
    DistillationTerm,
    Signals,
    as_rows,
    check_labels,
    check_same_shape,
    chunks,
    empty_gradient,
    full_precision,
    log_softmax,
)
from KDSegmentatorLib.errors import InvalidSettingsError

LEAST_CLASSES_STANDARDIZED = 3
"""Classes, background included, from which on standardised logits say more than a sign."""

_LEAST_DEVIATION = 1e-6  # of logits that are all equal


@dataclass(frozen=True, kw_only=True)
class LogitLoss(DistillationTerm):
    r"""Voxel-wise KL divergence between softened class distributions.

    .. math::
        L_{KD} = \tau^2 \frac{1}{|\Omega|} \sum_{u \in \Omega} \sum_c p^T_c(u) \log\frac{p^T_c(u)}{p^S_c(u)},
        \qquad p = \mathrm{softmax}(z / \tau)

    with :math:`\Omega` all voxels of all patches in the batch: the sum runs over classes, the mean over voxels only.
    (``kl_div(reduction="mean")`` would divide by the number of classes as well; ``"batchmean"`` on an unflattened
    tensor would be larger by the number of voxels.) The factor tau squared keeps the gradient's size independent of the
    temperature.

    Everything is computed in float32, whatever the logits come in: probabilities of rare classes vanish in half
    precision. It is computed in chunks of voxels, so that beyond the logits it takes the memory of their gradient and
    of one chunk: 111 classes on a 160x192x160 patch are 2.2 GB for one float32 tensor.

    With ``correct_only`` the teacher speaks only where it is right: voxels that it gives another label than the
    reference (or that have the ignore label) count 0, and the student learns from the reference alone there. The mean
    is still over all voxels, so that a voxel where the teacher is right pulls as hard as without it. (Meng et al. take
    the reference only where the teacher is wrong; here nnU-Net's own loss stays everywhere.)

    With ``standardize`` each voxel's logits are taken less their mean and over their standard deviation, both over the
    classes, before they are softened,

    .. math::
        p = \mathrm{softmax}\left(\frac{z - \bar z}{\sigma(z)\,\tau}\right), \qquad
        \sigma(z)^2 = \frac{1}{C} \sum_c (z_c - \bar z)^2,

    so that the student learns which classes the teacher prefers to which, and not how large its logits are: these grow
    with the length of a training, and a student that trains longer would have to unlearn its certainty. Of two classes
    nothing but the sign is left, so that three are needed. The largest of C standardised logits is at most sqrt(C - 1):
    tau alone sets how sharp the probabilities are.

    Attributes:
        temperature: tau, > 0.
        correct_only: leave out voxels that the teacher labels wrongly.
        standardize: compare standardised logits.
        deep_supervision: compare the deep-supervision heads too, weighted as nnU-Net weights them in its own loss
            (halved with every resolution, the lowest left out, normalised); otherwise the full resolution only.

    Unit: nats times tau squared, >= 0.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015; Lan et al., From Performance to Practice:
        Knowledge-Distilled Segmentator for On-Premises Clinical Workflows. ``correct_only``: Meng et al., Conditional
        Teacher-Student Learning, ICASSP 2019. ``standardize``: Sun et al., Logit Standardization in Knowledge
        Distillation, CVPR 2024.
    """

    name: ClassVar[str] = "logit"

    temperature: float
    correct_only: bool = False
    standardize: bool = False
    deep_supervision: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise InvalidSettingsError(f"temperature must be > 0, got {self.temperature}")

    @property
    def least_classes(self) -> int:
        """Classes, background included, that it needs."""
        return LEAST_CLASSES_STANDARDIZED if self.standardize else super().least_classes

    @property
    def uses_all_heads(self) -> bool:
        """Whether it compares the deep-supervision outputs too."""
        return self.deep_supervision

    def __call__(
        self,
        student: Signals,
        teacher: Signals,
        labels: Sequence[torch.Tensor],
        parts: nn.Module,  # noqa: ARG002 - all losses are called alike
    ) -> torch.Tensor:
        """Return the loss; see :class:`DistillationTerm`."""
        if self.deep_supervision and len(student.heads) != len(teacher.heads):
            raise ValueError(
                f"the student has {len(student.heads)} heads and the teacher {len(teacher.heads)}; both need the same "
                "stages"
            )
        heads = len(student.heads) if self.deep_supervision else 1
        return torch.stack(
            [
                weight * self.divergence(student.heads[n], teacher.heads[n], labels[n] if self.correct_only else None)
                for n, weight in enumerate(head_weights(heads))
                if weight > 0
            ]
        ).sum()

    def divergence(
        self, student_logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of one head.

        Args:
            student_logits: (batch, classes, *spatial).
            teacher_logits: the same shape; treated as constant.
            labels: (batch, 1, *spatial); voxels where the teacher's class is another one count 0. None compares all.

        Returns:
            A float32 scalar (float64 for float64 logits).

        Raises:
            ValueError: the shapes differ, as they do when teacher and student were planned with different labels; or
                two classes are to be standardised.
        """
        check_same_shape(student_logits, teacher_logits, "logits")
        if labels is not None:
            check_labels(student_logits, labels)
        if self.standardize and student_logits.shape[1] < LEAST_CLASSES_STANDARDIZED:
            raise ValueError("standardised logits of two classes are always 1 and -1; they need three")
        loss: torch.Tensor = _SoftenedDivergence.apply(
            student_logits, teacher_logits.detach(), labels, self.temperature, self.standardize
        )
        return loss


def head_weights(heads: int) -> list[float]:
    """Return nnU-Net's weights of its outputs, full resolution first: 1, 1/2, 1/4, ..., 0, normalised to 1."""
    weights = [0.5**n for n in range(heads)]
    if heads > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


class _SoftenedDivergence(torch.autograd.Function):
    """The divergence with its closed-form gradient, dL/dz_S = tau (p_S - p_T) / |Omega|, one chunk after the other.

    Through y = (z - mean) / sigma the gradient g of y becomes (g - mean(g) - y mean(g y)) / sigma; mean(g) is 0 here.

    Autograd would keep the softmax outputs of every chunk. Here the softmax is computed again for the gradient, which
    costs little beside two networks, so that nothing is kept but the logits.
    """

    @staticmethod
    def forward(
        context: Any,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor | None,
        temperature: float,
        standardize: bool,
    ) -> torch.Tensor:
        context.save_for_backward(student, teacher, labels)
        context.temperature, context.standardize = temperature, standardize
        total = full_precision(student.new_empty(0)).new_zeros(())
        for own, teachers, reference, _ in _chunks(student, teacher, labels):
            own, teachers = (_standardized(each)[0] if standardize else each for each in (own, teachers))
            log_student, log_teacher = log_softmax(own, temperature), log_softmax(teachers, temperature)
            p_teacher = log_teacher.exp()
            summands = p_teacher * log_teacher.sub_(log_student)
            total += (summands if reference is None else summands * _correct(teachers, reference)).sum()
        return total * (temperature**2 * student.shape[1] / student.numel())

    @staticmethod
    @once_differentiable
    def backward(context: Any, incoming: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        student, teacher, labels = context.saved_tensors
        factor = incoming * (context.temperature * student.shape[1] / student.numel())
        gradient = empty_gradient(student)
        for own, teachers, reference, result in _chunks(student, teacher, labels, gradient):
            own, deviation = _standardized(own) if context.standardize else (own, None)
            teachers = _standardized(teachers)[0] if context.standardize else teachers
            difference = log_softmax(own, context.temperature).exp_()
            difference -= log_softmax(teachers, context.temperature).exp_()
            if reference is not None:
                difference *= _correct(teachers, reference)
            if deviation is not None:
                difference = (difference - own * (difference * own).mean(dim=1, keepdim=True)) / deviation
            result.copy_(difference.mul_(factor))
        return gradient, None, None, None, None


def _standardized(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of logits (voxels, classes) with mean 0 and deviation 1 over the classes, and that deviation."""
    wide = full_precision(rows)
    centred = wide - wide.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt_().clamp_(min=_LEAST_DEVIATION)
    return centred / deviation, deviation


def _correct(teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (voxels, 1), whether the class that rows of logits favour is the label."""
    return teacher.argmax(dim=1, keepdim=True) == labels


def _chunks(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None, gradient: torch.Tensor | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]]:
    """Yield the same few rows of all of them."""
    for patch in range(len(student)):
        rows, of_teacher = as_rows(student[patch]), as_rows(teacher[patch])
        reference = None if labels is None else as_rows(labels[patch])
        result = rows if gradient is None else as_rows(gradient[patch])
        for chunk in chunks(rows):
            yield rows[chunk], of_teacher[chunk], None if reference is None else reference[chunk], result[chunk]

"""What distillation losses share: their settings as a frozen dataclass, checks, and logits as rows of voxels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from KDSegmentatorLib.errors import InvalidSettingsError


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What one network says about a batch.

    Attributes:
        heads: logits (batch, classes, z, y, x), full resolution first. More than that one only if a loss asks for them;
            of the teacher none if no loss looks at them.
        features: outputs of the encoder's stages, (batch, channels, z, y, x), full resolution first, without the
            bottleneck; the student's are mapped to the teacher's channels. Empty if no loss asks for them.
    """

    heads: Sequence[torch.Tensor]
    features: Sequence[torch.Tensor] = ()


@dataclass(frozen=True, kw_only=True)
class DistillationTerm(ABC):
    """One summand of the distillation loss. Its fields are its settings in a recipe; it holds no state.

    A subclass in a file of its own below ``distillation/losses`` is all that a new loss needs: recipes know it by its
    ``name``, and its fields, their types and checks are the recipe's.

    Attributes:
        weight: factor of the loss once it has ramped up, >= 0.
        ramp: share of the training, in [0, 1], over which the factor grows linearly from 0; 0 for a constant factor.
    """

    name: ClassVar[str]
    """Name in recipes and logs."""

    uses_features: ClassVar[bool] = False
    """Whether it compares encoder features, which only a teacher of one fold has."""

    uses_logits: ClassVar[bool] = True
    """Whether it looks at the teacher's logits; if no loss does, the teacher's decoder does not run."""

    weight: float
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise InvalidSettingsError(f"weight must be >= 0, got {self.weight}")
        if not 0 <= self.ramp <= 1:
            raise InvalidSettingsError(f"ramp is a share of the training, in [0, 1], got {self.ramp}")

    @property
    def least_classes(self) -> int:
        """Classes, background included, that it needs."""
        return 2

    @property
    def uses_all_heads(self) -> bool:
        """Whether it compares the deep-supervision outputs too."""
        return False

    def weight_at(self, progress: float) -> float:
        """Return the factor of the loss after a share of the training, in [0, 1]."""
        return self.weight if progress >= self.ramp else self.weight * progress / self.ramp

    def trained_parts(self, widths: Sequence[int]) -> nn.Module:  # noqa: ARG002 - for losses that have some
        """Return modules that are trained along with the student and thrown away afterwards; most losses have none.

        Args:
            widths: the teacher's channels at each stage of ``features``.
        """
        return nn.ModuleList()

    @abstractmethod
    def __call__(
        self, student: Signals, teacher: Signals, labels: Sequence[torch.Tensor], parts: nn.Module
    ) -> torch.Tensor:
        """Return the loss without its weight: a scalar, averaged over the batch.

        Args:
            student: its signals; gradients flow into them.
            teacher: its signals; constants.
            labels: label maps (batch, 1, z, y, x) at the resolutions of all heads, full resolution first.
            parts: what :meth:`trained_parts` returned.
        """


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast; the meta device, on which memory is forecast, knows none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def full_precision(values: torch.Tensor) -> torch.Tensor:
    """Return values in float32, which softmax over many voxels needs; float64 stays."""
    return values if values.dtype is torch.float64 else values.float()


def check_same_shape(student: torch.Tensor, teacher: torch.Tensor, what: str) -> None:
    """Check that two tensors can be compared voxel by voxel.

    Raises:
        ValueError: they cannot.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {what} {tuple(student.shape)} and teacher {what} {tuple(teacher.shape)} differ in shape; teacher "
            "and student need the same labels, strides and patch size"
        )


def check_labels(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Check that a label map (batch, 1, z, y, x) has the batch and the voxels of logits (batch, classes, z, y, x).

    Raises:
        ValueError: it has not.
    """
    if labels.shape != (logits.shape[0], 1, *logits.shape[2:]):
        raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}")


CHUNK_VALUES = 1 << 18
"""Values, voxels times classes, that are handled at once: they stay in a CPU's cache. No loss depends on it."""

_TIMES_ELSEWHERE = 64  # a GPU has no use for that cache, but would wait for the start of thousands of kernels

_VECTOR = 16
"""Classes from which torch's softmax over a contiguous row is faster than one across (float32 lanes of AVX-512)."""


def as_rows(patch: torch.Tensor) -> torch.Tensor:
    """Return one patch (classes, z, y, x) as (voxels, classes), voxels in C order; a view of either memory layout.

    Where channels lie last in memory, as a CPU's fast convolutions leave them, a row is contiguous, and a softmax over
    it several times as fast as one that strides through the whole patch for every voxel.
    """
    return patch.flatten(1).t()


def chunks(rows: torch.Tensor) -> Iterator[slice]:
    """Yield slices that cover rows (voxels, classes)."""
    voxels, classes = rows.shape
    values = CHUNK_VALUES if rows.device.type == "cpu" else _TIMES_ELSEWHERE * CHUNK_VALUES
    step = max(1, values // classes)
    for start in range(0, voxels, step):
        yield slice(start, start + step)


def log_softmax(rows: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return log-probabilities of rows of logits / temperature, in float32 whatever they come in (float64 stays)."""
    wide = full_precision(rows)
    if temperature != 1:
        wide = wide / temperature
    if rows.shape[1] < _VECTOR:
        return torch.log_softmax(wide.t().contiguous(), dim=0).t()
    return torch.log_softmax(wide.contiguous(), dim=1)


def empty_gradient(logits: torch.Tensor) -> torch.Tensor:
    """Return memory for the gradient of logits (batch, classes, z, y, x) that :func:`as_rows` can write to.

    Channels lie last where the logits' do, so that nobody has to turn it round.
    """
    last = logits.is_contiguous(memory_format=torch.channels_last_3d)
    layout = torch.channels_last_3d if last else torch.contiguous_format
    return torch.empty_like(logits, memory_format=layout)

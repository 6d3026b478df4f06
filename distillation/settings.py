"""Training settings that travel to the nnU-Net trainers inside the plans file.

nnU-Net fixes the five arguments of a trainer's constructor, so that whatever a trainer needs to know beyond them has to
come from its plans. The settings live under one top-level key that stock nnU-Net ignores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any, Literal

from KDSegmentatorLib.errors import InvalidSettingsError

PLANS_KEY = "kdsegmentator"
"""Top-level key of ``plans.json`` that holds the settings."""

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class LogitDistillationSettings:
    """How a frozen teacher supervises a student.

    Attributes:
        teacher_folder: nnU-Net model folder of the teacher (holds ``plans.json``, ``dataset.json``, ``fold_X``).
        teacher_fold: fold of the teacher; it has to be the student's own fold, or the held-out cases leak.
        teacher_checkpoint: file name inside the teacher's fold folder.
        teacher_sha256: hash of that checkpoint; None in runs of earlier versions.
        temperature: softmax temperature tau of the distillation loss, dimensionless, > 0.
        weight: lambda, the factor of the distillation loss, >= 0.
    """

    teacher_folder: str
    teacher_fold: int
    teacher_checkpoint: str = "checkpoint_final.pth"
    teacher_sha256: str | None = None
    temperature: float = 2.0
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InvalidSettingsError(f"temperature must be > 0, got {self.temperature}")
        if not self.weight >= 0:
            raise InvalidSettingsError(f"weight (lambda) must be >= 0, got {self.weight}")

    def same_but_for_place(self, other: LogitDistillationSettings) -> bool:
        """Return whether these settings use the same teacher in the same way, wherever its folder lies now.

        Where one of the two does not know the teacher's hash, the name of its folder decides.
        """
        if self.teacher_sha256 is None or other.teacher_sha256 is None:
            known = PurePath(self.teacher_folder).name == PurePath(other.teacher_folder).name
            known = known and self.teacher_checkpoint == other.teacher_checkpoint
        else:
            known = self.teacher_sha256 == other.teacher_sha256
        here = replace(
            self,
            teacher_folder=other.teacher_folder,
            teacher_checkpoint=other.teacher_checkpoint,
            teacher_sha256=other.teacher_sha256,
        )
        return known and here == other


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Length, seed and precision of a training run.

    Attributes:
        epochs: number of epochs; the poly learning-rate schedule ends with the last one.
        iterations_per_epoch: optimiser steps an epoch.
        validation_iterations: validation batches after each epoch (nnU-Net's pseudo Dice).
        batch_size: patches an iteration.
        initial_learning_rate: start of the poly schedule.
        seed: seed of weights and augmentation.
        precision: ``auto`` takes bfloat16 where a short measurement shows that the machine gains from it.
        mirroring_axes: array axes that augmentation mirrors, of 0, 1 and 2; inference may mirror the same ones.
        initial_checkpoint: checkpoint of the same network whose weights training starts from; None draws them.
        initial_iterations: optimiser steps that those weights have seen already.
        distillation: the teacher, or None for plain training.
    """

    epochs: int
    iterations_per_epoch: int = 250
    validation_iterations: int = 20
    batch_size: int = 2
    initial_learning_rate: float = 1e-2
    seed: int = 0
    precision: Precision = "auto"
    mirroring_axes: tuple[int, ...] = (0, 1, 2)
    initial_checkpoint: str | None = None
    initial_iterations: int = 0
    distillation: LogitDistillationSettings | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "iterations_per_epoch", "validation_iterations", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InvalidSettingsError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not self.initial_learning_rate > 0:
            raise InvalidSettingsError(f"initial_learning_rate must be > 0, got {self.initial_learning_rate}")
        object.__setattr__(self, "mirroring_axes", tuple(self.mirroring_axes))  # JSON knows lists only
        if not set(self.mirroring_axes) <= {0, 1, 2}:
            raise InvalidSettingsError(f"mirroring_axes may name 0, 1 and 2, got {list(self.mirroring_axes)}")

    @property
    def iterations(self) -> int:
        """Optimiser steps that the final weights have seen."""
        return self.initial_iterations + self.epochs * self.iterations_per_epoch

    def same_but_for_place(self, other: TrainingSettings) -> bool:
        """Return whether a run with these settings is one with the other settings, in a workspace that was moved."""
        mine, others = self.distillation, other.distillation
        same_teacher = mine is others if mine is None or others is None else mine.same_but_for_place(others)
        same_start = _inside_results(self.initial_checkpoint) == _inside_results(other.initial_checkpoint)
        here = replace(self, initial_checkpoint=other.initial_checkpoint, distillation=others)
        return same_teacher and same_start and here == other

    def to_plans(self) -> dict[str, Any]:
        """Return the settings as the JSON object that :meth:`from_plans` reads."""
        return asdict(self)

    @classmethod
    def from_plans(cls, plans: dict[str, Any]) -> TrainingSettings:
        """Read the settings out of a plans dictionary.

        Raises:
            InvalidSettingsError: the plans were not written by ``kdseg-distill`` or hold an unknown setting.
        """
        try:
            values = dict(plans[PLANS_KEY])
        except KeyError:
            raise InvalidSettingsError(
                f"these plans have no '{PLANS_KEY}' section; write them with 'kdseg-distill prepare' "
                "(teacher) or 'kdseg-distill distil' (students)"
            ) from None
        distillation = values.pop("distillation", None)
        try:
            return cls(
                **values,
                distillation=None if distillation is None else LogitDistillationSettings(**distillation),
            )
        except TypeError as error:
            raise InvalidSettingsError(f"the '{PLANS_KEY}' section of the plans is not valid: {error}") from error


def _inside_results(checkpoint: str | None) -> tuple[str, ...] | None:
    """Return model folder, fold folder and file name of a checkpoint, which do not change when a workspace moves."""
    return None if checkpoint is None else PurePath(checkpoint).parts[-3:]

"""Training settings that travel to the nnU-Net trainers inside the plans file.

nnU-Net fixes the five arguments of a trainer's constructor, so that whatever a trainer needs to know beyond them has to
come from its plans. The settings live under one top-level key that stock nnU-Net ignores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from KDSegmentatorLib.errors import InvalidSettingsError

LabelInterpolation = Literal["linear", "nearest"]


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """What differs from nnU-Net's own augmentation; by default nothing does.

    Attributes:
        random_contrast: share of the training patches whose intensities are bent by a random curve.
        bias_field: share that is multiplied by a smooth random field.
        thick_slices: share that looks like slices of 2 to 6 mm, along any axis.
        label_interpolation: how label maps are rotated, scaled and deformed. ``linear``, nnU-Net's, interpolates the
            labels one by one, so that its time grows with their number; ``nearest`` takes the same time for any number.
    """

    random_contrast: float = 0.0
    bias_field: float = 0.0
    thick_slices: float = 0.0
    label_interpolation: LabelInterpolation = "linear"

    def __post_init__(self) -> None:
        for name in ("random_contrast", "bias_field", "thick_slices"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InvalidSettingsError(f"{name} is a share and must be 0 to 1, got {value!r}")
        if self.label_interpolation not in get_args(LabelInterpolation):
            raise InvalidSettingsError(
                f"label_interpolation must be one of {get_args(LabelInterpolation)}, got {self.label_interpolation!r}"
            )


NNUNETS_OWN = AugmentationSettings()
"""Nothing beyond nnU-Net's own."""


PLANS_KEY = "kdsegmentator"
"""Top-level key of ``plans.json`` that holds the settings."""

MINIMUM_WIDTH = 8
"""C_min: the smallest number of features a scaled stage may have, unless a recipe says otherwise."""

MAXIMUM_SEED = 2**31

_START = ("initial_checkpoint", "initial_sha256", "initial_iterations")

Precision = Literal["auto", "float32", "bfloat16"]
Optimizer = Literal["sgd", "adamw"]


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """The frozen teacher of a distillation.

    Attributes:
        folder: nnU-Net model folder (holds ``plans.json``, ``dataset.json``, ``fold_X``).
        folds: whose networks teach; logits of several folds are averaged.
        checkpoint: file name inside the fold folders.
        sha256: hashes of these checkpoints; None in runs of earlier versions.
        accept_leakage: folds other than the student's may teach, although they have seen its held-out cases.
    """

    folder: str
    folds: tuple[int, ...]
    checkpoint: str = "checkpoint_final.pth"
    sha256: tuple[str, ...] | None = None
    accept_leakage: bool = False

    def __post_init__(self) -> None:
        if not self.folds or len(set(self.folds)) != len(self.folds):
            raise InvalidSettingsError(f"the teacher's folds must be one or more, each once, got {list(self.folds)}")
        if self.sha256 is not None and len(self.sha256) != len(self.folds):
            raise InvalidSettingsError(f"{len(self.folds)} folds of the teacher have {len(self.sha256)} hashes")

    def paths(self) -> tuple[Path, ...]:
        """Return the checkpoints."""
        return tuple(Path(self.folder) / f"fold_{fold}" / self.checkpoint for fold in self.folds)

    def same_but_for_place(self, other: TeacherSettings) -> bool:
        """Return whether this is the same teacher, wherever its folder lies now.

        Where one of the two does not know the teacher's hashes, the name of its folder decides.
        """
        if self.sha256 is None or other.sha256 is None:
            known = PurePath(self.folder).name == PurePath(other.folder).name and self.checkpoint == other.checkpoint
        else:
            known = self.sha256 == other.sha256
        return known and (self.folds, self.accept_leakage) == (other.folds, other.accept_leakage)


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """How a frozen teacher supervises a student.

    Attributes:
        method: the recipe's name for it, for example ``logit-reco``.
        teacher: the teacher.
        losses: settings of each loss by its name, as :func:`distillation.losses.registry.read_terms` reads them.
    """

    method: str
    teacher: TeacherSettings
    losses: dict[str, dict[str, Any]]

    def same_but_for_place(self, other: DistillationSettings) -> bool:
        """Return whether these settings use the same teacher in the same way, wherever its folder lies now."""
        same_use = self.method == other.method and _terms(self.losses) == _terms(other.losses)
        return same_use and self.teacher.same_but_for_place(other.teacher)

    @classmethod
    def from_plans(cls, values: dict[str, Any]) -> DistillationSettings:
        """Read the settings as they stand in a plans file, earlier versions' too.

        Raises:
            KeyError, TypeError: a setting is missing or unknown.
        """
        values = dict(values)
        if "teacher_folder" in values:  # before there were methods other than logit
            sha256 = values.pop("teacher_sha256", None)
            teacher = TeacherSettings(
                folder=values.pop("teacher_folder"),
                folds=(values.pop("teacher_fold"),),
                checkpoint=values.pop("teacher_checkpoint", "checkpoint_final.pth"),
                sha256=None if sha256 is None else (sha256,),
            )
            return cls(method="logit", teacher=teacher, losses={"logit": {**_EARLIER_LOGIT, **values}})
        teacher_values = dict(values.pop("teacher"))
        sha256s = teacher_values.pop("sha256", None)
        teacher = TeacherSettings(
            **{**teacher_values, "folds": tuple(teacher_values["folds"])},
            sha256=None if sha256s is None else tuple(sha256s),
        )
        return cls(**values, teacher=teacher)


def _terms(losses: dict[str, dict[str, Any]]) -> Any:
    """Return losses with the settings that they did not have when they were written down, to compare them."""
    from distillation.losses.registry import read_terms  # which needs torch
    from KDSegmentatorLib.packs.strict_json import FieldError

    try:
        return read_terms(losses, "losses")
    except FieldError:  # a loss that is not there any more
        return losses


_EARLIER_LOGIT = {"weight": 0.5, "ramp": 0.0, "temperature": 2.0, "deep_supervision": False}


@dataclass(frozen=True, kw_only=True)
class SoftLabelSettings:
    """How stored teacher probabilities take part in the loss: (1 - w) L_seg + w L_soft.

    Attributes:
        method: the recipe's name for it, for example ``mix``.
        folder: what ``kdseg-distill teach`` wrote.
        weight: w at the end, in [0, 1].
        ramp_start: share of the training until which w is 0; from the first iteration on, soft labels do harm (a label
            may never be found).
        ramp_end: share of the training from which w has its value; it grows linearly in between.
        hard: take the reference labels in place of the teacher's probabilities: the same loss without a teacher, which
            tells what of a gain comes from the form of the loss.
        teachers: hashes of the networks whose probabilities they are; None with ``hard`` and in runs of earlier
            versions.
        mirroring_axes: array axes that these were averaged over.
    """

    method: str
    folder: str
    weight: float = 0.5
    ramp_start: float = 0.3
    ramp_end: float = 0.5
    hard: bool = False
    teachers: tuple[str, ...] | None = None
    mirroring_axes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("teachers", "mirroring_axes"):  # JSON knows lists only
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if not 0 <= self.weight <= 1:
            raise InvalidSettingsError(f"weight of soft labels must be 0 to 1, got {self.weight}")
        if not 0 <= self.ramp_start <= self.ramp_end <= 1:
            raise InvalidSettingsError(
                f"ramp_start and ramp_end are shares of the training, 0 <= ramp_start <= ramp_end <= 1, got "
                f"{self.ramp_start} and {self.ramp_end}"
            )

    def same_but_for_place(self, other: SoftLabelSettings) -> bool:
        """Return whether these are the same soft labels in the same use, wherever their folder lies now."""
        known = None not in (self.teachers, other.teachers)
        teachers = (self.teachers, self.mirroring_axes) if known else (other.teachers, other.mirroring_axes)
        return replace(self, folder=other.folder, teachers=teachers[0], mirroring_axes=teachers[1]) == other

    def weight_at(self, progress: float) -> float:
        """Return w after a share of the training, in [0, 1]."""
        if progress >= self.ramp_end:
            return self.weight
        done = max(0.0, progress - self.ramp_start)
        return self.weight * done / (self.ramp_end - self.ramp_start) if done else 0.0


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Length, seed and precision of a training run.

    Attributes:
        epochs: number of epochs; the poly learning-rate schedule ends with the last one.
        iterations_per_epoch: optimiser steps an epoch.
        validation_iterations: validation batches after each epoch (nnU-Net's pseudo Dice).
        batch_size: patches an iteration.
        optimizer: ``sgd`` is nnU-Net's own (Nesterov momentum 0.99); ``adamw`` that of its ``nnUNetTrainerAdam``, which
            finds small structures in far fewer iterations. Its learning rate is about a tenth.
        initial_learning_rate: start of the poly schedule.
        seed: seed of weights and augmentation.
        precision: ``auto`` takes bfloat16 where a short measurement shows that the machine gains from it.
        mirroring_axes: array axes that augmentation mirrors, of 0, 1 and 2; inference may mirror the same ones.
        augmentation: what is done to training patches beyond nnU-Net's own augmentation.
        initial_checkpoint: checkpoint, or folder of a pack, of the same network whose weights training starts from;
            None draws them.
        initial_sha256: hash of the checkpoint that a pack to start from was exported from; None of a checkpoint, and
            in runs of earlier versions.
        initial_iterations: optimiser steps that those weights have seen already.
        gradient_checkpointing: keep the outputs of the network's stages only and compute the rest again for the
            gradient: less memory for about a third more time.
        minimum_width: C_min, the smallest number of features a scaled stage may have.
        distillation: a teacher that runs beside the student, or None.
        soft_labels: stored probabilities of teachers, or None.
    """

    epochs: int
    iterations_per_epoch: int = 250
    validation_iterations: int = 20
    batch_size: int = 2
    optimizer: Optimizer = "sgd"
    initial_learning_rate: float = 1e-2
    seed: int = 0
    precision: Precision = "auto"
    mirroring_axes: tuple[int, ...] = (0, 1, 2)
    augmentation: AugmentationSettings = NNUNETS_OWN
    initial_checkpoint: str | None = None
    initial_sha256: str | None = None
    initial_iterations: int = 0
    gradient_checkpointing: bool = False
    minimum_width: int = MINIMUM_WIDTH
    distillation: DistillationSettings | None = None
    soft_labels: SoftLabelSettings | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "iterations_per_epoch", "validation_iterations", "batch_size", "minimum_width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InvalidSettingsError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.optimizer not in get_args(Optimizer):
            raise InvalidSettingsError(f"optimizer must be one of {get_args(Optimizer)}, got {self.optimizer!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < MAXIMUM_SEED:
            raise InvalidSettingsError(f"seed must be a whole number from 0 to {MAXIMUM_SEED - 1}, got {self.seed!r}")
        if not self.initial_learning_rate > 0:
            raise InvalidSettingsError(f"initial_learning_rate must be > 0, got {self.initial_learning_rate}")
        object.__setattr__(self, "mirroring_axes", tuple(self.mirroring_axes))  # JSON knows lists only
        if not set(self.mirroring_axes) <= {0, 1, 2}:
            raise InvalidSettingsError(f"mirroring_axes may name 0, 1 and 2, got {list(self.mirroring_axes)}")

    @property
    def iterations(self) -> int:
        """Optimiser steps that the final weights have seen."""
        return self.initial_iterations + self.epochs * self.iterations_per_epoch

    def differing(self, other: TrainingSettings) -> tuple[str, ...]:
        """Return the settings by which a run is another one than with ``other``, wherever their workspaces lie."""
        same: dict[str, Any] = {}
        for name in ("distillation", "soft_labels"):
            mine, others = getattr(self, name), getattr(other, name)
            if None not in (mine, others) and mine.same_but_for_place(others):
                same[name] = others
        if self._same_start(other):
            same |= {name: getattr(other, name) for name in _START}
        here = replace(self, **same)
        return tuple(each.name for each in fields(self) if getattr(here, each.name) != getattr(other, each.name))

    def _same_start(self, other: TrainingSettings) -> bool:
        """Return whether both start from the same weights; where a hash is not known, the checkpoint's name decides."""
        hashes = self.initial_sha256, other.initial_sha256
        if None not in hashes:
            return hashes[0] == hashes[1] and self.initial_iterations == other.initial_iterations
        counted = self.initial_iterations == other.initial_iterations or hashes != (None, None)
        return counted and _inside_results(self.initial_checkpoint) == _inside_results(other.initial_checkpoint)

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
        augmentation = values.pop("augmentation", {})  # of earlier versions
        soft_labels = values.pop("soft_labels", None)
        try:
            return cls(
                **values,
                augmentation=AugmentationSettings(**augmentation),
                distillation=None if distillation is None else DistillationSettings.from_plans(distillation),
                soft_labels=None if soft_labels is None else SoftLabelSettings(**soft_labels),
            )
        except (KeyError, TypeError) as error:
            raise InvalidSettingsError(f"the '{PLANS_KEY}' section of the plans is not valid: {error}") from error


def _inside_results(checkpoint: str | None) -> tuple[str, ...] | None:
    """Return model folder, fold folder and file name of a checkpoint, which do not change when a workspace moves."""
    return None if checkpoint is None else PurePath(checkpoint).parts[-3:]

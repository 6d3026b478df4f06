"""A recipe: everything that turns one dataset into a family of packs, in one YAML file."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import msgspec

from distillation.evaluation.scores import SurfaceSettings
from distillation.mixture import MixturePart
from distillation.plans import alpha_of
from distillation.synthesis.synthesis_recipe import SynthesisRecipe
from distillation.training_settings import (
    MINIMUM_WIDTH,
    NNUNETS_OWN,
    AugmentationSettings,
    Optimizer,
    Precision,
    SoftLabelSettings,
    TrainingSettings,
)
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.packs.manifest import (
    UNDISTILLED,
    Credit,
    Label,
    Line,
    LongText,
    Method,
    Modality,
    Region,
    Sha256,
    Task,
    Version,
)
from KDSegmentatorLib.packs.strict_json import FieldError, build

SOFT_LABELS = "soft_labels"
"""Key of a method for stored probabilities."""

CONFIGURATIONS = ("3d_fullres", "3d_lowres")
"""nnU-Net's configurations that students can be packed in."""


@dataclass(frozen=True, kw_only=True)
class DatasetRecipe:
    """The data and how nnU-Net plans for it.

    Attributes:
        name: nnU-Net's folder name, ``DatasetXXX_Name``.
        title: what people call it, with its source; shown with the evaluation.
        planner: stock nnU-Net planner class, for example ``ExperimentPlanner``.
        configuration: for example ``3d_fullres``.
        fold: fold of nnU-Net's five-fold split; its validation cases are held out from teacher and students alike.
        memory_target_gb: GPU memory that nnU-Net plans for; less of it means smaller patches, for machines that train
            on a few cores. None leaves nnU-Net's own.
        maximum_features: upper bound of the teacher's widths. None leaves nnU-Net's own (320).
        spacing: of the voxels that are trained on, (z, y, x) of the stored arrays, in mm. None leaves nnU-Net's choice,
            the median of the dataset.
        groups: cases that have to stay in one fold, because they show one person or were made from one head; names, or
            patterns as in a shell (``head_01_*``). See :func:`distillation.splits.write_splits`.
        held_out: cases to hold out in place of nnU-Net's fold, names or patterns; only with fold 0.
    """

    name: str
    title: str
    planner: str = "ExperimentPlanner"
    configuration: str = "3d_fullres"
    fold: int = 0
    memory_target_gb: float | None = None
    maximum_features: int | None = None
    spacing: tuple[float, float, float] | None = None
    groups: tuple[tuple[str, ...], ...] = ()
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"Dataset\d{3}_[^/\\]+", self.name):
            raise InvalidSettingsError(
                f"name must be that of nnU-Net's folder, Dataset, three digits, _ and a name, got {self.name!r}"
            )
        if self.memory_target_gb is not None and not self.memory_target_gb > 0:
            raise InvalidSettingsError(f"memory_target_gb must be > 0, got {self.memory_target_gb}")
        if self.maximum_features is not None and self.maximum_features < 1:
            raise InvalidSettingsError(f"maximum_features must be at least 1, got {self.maximum_features}")
        if self.spacing is not None and not min(self.spacing) > 0:
            raise InvalidSettingsError(f"spacing must be > 0 mm along every axis, got {list(self.spacing)}")
        if self.held_out and self.fold != 0:
            raise InvalidSettingsError(f"held_out makes one fold, number 0, got fold {self.fold}")
        if not 0 <= self.fold <= 4:
            raise InvalidSettingsError(f"fold must be 0 to 4, got {self.fold}")
        if self.configuration not in CONFIGURATIONS:
            raise InvalidSettingsError(
                f"configuration must be one of {', '.join(CONFIGURATIONS)}, got {self.configuration!r}; 2d and "
                "cascades are not supported"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """What all trainings of a recipe share; see :class:`distillation.training_settings.TrainingSettings`.

    ``continued_learning_rate`` takes the place of ``initial_learning_rate`` after a warm-up. Leave the axis from left
    to right out of ``mirroring_axes`` where labels come in left and right: a mirrored left parotid is no right one.
    """

    iterations_per_epoch: int = 250
    validation_iterations: int = 20
    batch_size: int = 2
    optimizer: Optimizer = "sgd"
    initial_learning_rate: float = 1e-2
    continued_learning_rate: float = 5e-3
    seed: int = 0
    precision: Precision = "auto"
    mirroring_axes: tuple[int, ...] = (0, 1, 2)
    augmentation: AugmentationSettings = NNUNETS_OWN
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.continued_learning_rate < math.inf:
            raise InvalidSettingsError(f"continued_learning_rate must be > 0, got {self.continued_learning_rate}")


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How long the teacher trains, if none is given.

    Attributes:
        epochs: epochs of ``iterations_per_epoch``.
        folder: an existing nnU-Net model folder to take instead, relative to the recipe's file.
        checkpoint: file name in its fold folder.
        folds: folds of ``folder`` whose logits are averaged; None for the dataset's fold alone.
        accept_leakage: other folds than the dataset's may teach. They have seen the held-out cases, so that figures
            measured on these are too good.
    """

    epochs: int
    folder: str | None = None
    checkpoint: str = "checkpoint_final.pth"
    folds: tuple[int, ...] | None = None
    accept_leakage: bool = False

    def __post_init__(self) -> None:
        _check_epochs(self.epochs)
        if self.folds is None:
            return
        if not self.folds or len(set(self.folds)) != len(self.folds) or not set(self.folds) <= set(range(5)):
            raise InvalidSettingsError(f"folds must name one or more of 0 to 4, each once, got {list(self.folds)}")
        if len(self.folds) > 1 and self.folder is None:
            raise InvalidSettingsError("a recipe trains one fold of the teacher; several folds need a given 'folder'")


@dataclass(frozen=True, kw_only=True)
class TeachingRecipe:
    """Whose probabilities are stored for methods with ``soft_labels``.

    Attributes:
        networks: folders of packs or of nnU-Net models, relative to the recipe's file; their mean teaches. None of them
            takes the recipe's own teacher.
        mirroring: average over windows mirrored along the ``mirroring_axes`` of ``training``.
    """

    networks: tuple[str, ...] = ()
    mirroring: bool = True


@dataclass(frozen=True, kw_only=True)
class _SoftLabels:
    """What a recipe says of :class:`SoftLabelSettings`."""

    weight: float = SoftLabelSettings.weight
    ramp_start: float = SoftLabelSettings.ramp_start
    ramp_end: float = SoftLabelSettings.ramp_end
    hard: bool = SoftLabelSettings.hard


@dataclass(frozen=True, kw_only=True)
class MethodRecipe:
    """A distillation method: losses beside a running teacher, added by weight, or stored soft labels, or both.

    Attributes:
        terms: the losses by their names (:func:`distillation.losses.registry.known_losses`).
        soft_labels: how stored probabilities take part; None if they do not. Name and folder are filled in by
            :mod:`distillation.students`.
    """

    terms: dict[str, Any]  # losses; importing their class takes torch, and seconds
    soft_labels: SoftLabelSettings | None = None

    @property
    def needs_soft_labels(self) -> bool:
        """Whether teachers have to write soft labels before."""
        return self.soft_labels is not None and not self.soft_labels.hard

    @property
    def uses_features(self) -> bool:
        """Whether a loss compares encoder features, which only a teacher of one fold has."""
        return any(term.uses_features for term in self.terms.values())

    @classmethod
    def from_document(cls, content: Any, path: str) -> MethodRecipe:
        """Return the method of a recipe's part: a mapping from a loss's name to its settings.

        Raises:
            FieldError: a loss or a setting is unknown, missing or not valid.
        """
        from distillation.losses.registry import read_terms  # torch takes seconds, and help needs none

        terms = dict(content) if isinstance(content, dict) else content
        if not isinstance(terms, dict) or SOFT_LABELS not in terms:
            return cls(terms=read_terms(content, path))
        values = terms.pop(SOFT_LABELS)
        try:
            settings = build(_SoftLabels, values or {})
            soft = SoftLabelSettings(method="", folder="", **asdict(settings))
        except FieldError as error:
            raise FieldError(f"{path}.{SOFT_LABELS}.{error.path}".rstrip("."), error.problem) from error
        except InvalidSettingsError as error:
            raise FieldError(f"{path}.{SOFT_LABELS}", str(error)) from error
        return cls(terms=read_terms(terms, path) if terms else {}, soft_labels=soft)


@dataclass(frozen=True, kw_only=True)
class StudentRecipe:
    """One width, trained once with each method.

    Attributes:
        size: ``x1/2``, ``x1/4``, ...
        epochs: epochs of ``iterations_per_epoch`` with each method.
        warm_up_epochs: epochs of plain training before, shared by all methods: each of them goes on from the same
            weights, so that the teacher, which costs most of a step, does not have to teach the first rough shapes.
        methods: ``plain`` (no teacher) and names of distillation methods.
        minimum_width: C_min, the smallest number of features a stage may have.
        optimizer: in place of that of ``training``, whose learning rates then need another ``learning_rate_factor``.
        learning_rate_factor: of both learning rates of ``training``, which suit the teacher's width. With ``adamw``, n
            for a network of 1/n of the width is a good start (as Yang & Hu, Tensor Programs V, 2022, find for another
            initialisation).
        start: folder of a pack, relative to the recipe's file, whose weights training starts from; None draws them.
        start_sha256: hash of the checkpoint that this pack was exported from (``provenance`` in its manifest), so that
            another version of it, perhaps one that this recipe itself made, is refused; None takes any.
    """

    size: str
    epochs: int
    methods: tuple[Method, ...]
    warm_up_epochs: int = 0
    minimum_width: int = MINIMUM_WIDTH
    optimizer: Optimizer | None = None
    learning_rate_factor: float = 1.0
    start: str | None = None
    start_sha256: Sha256 | None = None

    def __post_init__(self) -> None:
        _check_epochs(self.epochs)
        if self.warm_up_epochs < 0:
            raise InvalidSettingsError(f"warm_up_epochs must not be negative, got {self.warm_up_epochs}")
        if not 0 < self.learning_rate_factor < math.inf:
            raise InvalidSettingsError(f"learning_rate_factor must be > 0, got {self.learning_rate_factor}")
        if self.start_sha256 is not None and self.start is None:
            raise InvalidSettingsError("start_sha256 says which pack 'start' is, but there is no 'start'")
        if alpha_of(self.size) == 1:
            raise InvalidSettingsError("x1 is the teacher; a student is smaller")
        if not self.methods or len(set(self.methods)) != len(self.methods) or "teacher" in self.methods:
            raise InvalidSettingsError(
                f"methods must name plain or methods of 'methods', each at most once, got {list(self.methods)}"
            )


@dataclass(frozen=True, kw_only=True)
class PackRecipe:
    """What the packs say about themselves that no training can know.

    Attributes:
        version: ``major.minor.patch`` of the family.
        task: the family's name, first part of the packs' ids.
        title: one line for people.
        modality: ``CT`` or ``MR``.
        body_part: DICOM Body Part Examined (CID 4031), for example ``BRAIN``.
        method: the students' method that is shipped.
        labels: every foreground label, in the order of its values.
        data: licence (SPDX) and credit of the data.
        weights: licence and credit of the weights.
        intended_use: what the family is for.
        limits: what it is not for, and where it fails.
        region: the pack that is run before, where training images show its region alone; None if they show all.
        single_pieces: values of the labels of which only the largest connected piece is kept.
        recommended: the size that runs if a user names none, for example ``x1/4``.
    """

    version: Version  # what the manifest asks for, so that it is not broken after days of training only
    task: Task
    title: Line
    modality: Modality
    body_part: Line
    method: Method
    labels: Annotated[tuple[Label, ...], msgspec.Meta(min_length=1)]
    data: Credit
    weights: Credit
    intended_use: LongText
    limits: LongText
    region: Region | None = None
    single_pieces: tuple[int, ...] = ()
    recommended: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole family, from dataset to packs.

    Attributes:
        teaching: whose probabilities soft labels are.
        evaluation: how NSD is defined, in the tables and in the packs.
        synthesis: how the dataset is made of label maps; None if it is collected.
        mixture: datasets that ``kdseg-distill mix`` makes it of; none if it is collected.
    """

    dataset: DatasetRecipe
    training: TrainingRecipe
    teacher: TeacherRecipe
    methods: dict[Method, MethodRecipe]
    students: tuple[StudentRecipe, ...]
    pack: PackRecipe
    teaching: TeachingRecipe = field(default_factory=TeachingRecipe)
    evaluation: SurfaceSettings = field(default_factory=SurfaceSettings)
    synthesis: SynthesisRecipe | None = None
    mixture: tuple[MixturePart, ...] = ()

    def __post_init__(self) -> None:
        sizes = [student.size for student in self.students]
        if len(set(sizes)) != len(sizes):
            raise InvalidSettingsError(f"students: each size may come once, got {', '.join(sizes)}")
        for student in self.students:
            for method in student.methods:
                if method != "plain" and method not in self.methods:
                    raise InvalidSettingsError(f"student {student.size} uses '{method}', which 'methods' does not set")
            self.student_settings(student, student.epochs)  # the values themselves are checked there
        self.settings(self.teacher.epochs)
        self._check_methods()

    def student(self, size: str) -> StudentRecipe:
        """Return a student of the recipe.

        Raises:
            InvalidSettingsError: the recipe has none of this size.
        """
        for student in self.students:
            if student.size == size:
                return student
        known = ", ".join(student.size for student in self.students)
        raise InvalidSettingsError(f"the recipe has no student {size!r}; it has: {known}")

    def teacher_folds(self) -> tuple[int, ...]:
        """Return the folds whose networks teach."""
        return self.teacher.folds or (self.dataset.fold,)

    def held_out_text(self) -> str:
        """Return for people which cases are evaluated, and whether a teacher has seen them."""
        text = f"validation cases of fold {self.dataset.fold} of nnU-Net's five-fold split"
        if self.dataset.held_out:
            text = "cases held out from training"
        if len(self.teacher_folds()) == 1:
            return text
        return f"{text}, which the teacher's other folds have seen: the distilled students' figures are too good"

    def student_settings(self, student: StudentRecipe, epochs: int) -> TrainingSettings:
        """Return the settings of a student's plain training of this length, from weights that are drawn."""
        settings = self.settings(epochs)
        return replace(
            settings,
            optimizer=student.optimizer or settings.optimizer,
            initial_learning_rate=student.learning_rate_factor * settings.initial_learning_rate,
            minimum_width=student.minimum_width,
            initial_checkpoint=student.start,
        )

    def settings(self, epochs: int) -> TrainingSettings:
        """Return the settings of the teacher's training, or another's at its width, of this length."""
        return TrainingSettings(
            epochs=epochs,
            iterations_per_epoch=self.training.iterations_per_epoch,
            validation_iterations=self.training.validation_iterations,
            batch_size=self.training.batch_size,
            optimizer=self.training.optimizer,
            initial_learning_rate=self.training.initial_learning_rate,
            seed=self.training.seed,
            precision=self.training.precision,
            mirroring_axes=self.training.mirroring_axes,
            augmentation=self.training.augmentation,
            gradient_checkpointing=self.training.gradient_checkpointing,
        )

    def _check_methods(self) -> None:
        for name in self.methods:
            if name in (*UNDISTILLED, "warmup"):
                raise InvalidSettingsError(f"'{name}' cannot name a distillation method")
        if not any(self.pack.method in student.methods for student in self.students):
            raise InvalidSettingsError(
                f"pack: method '{self.pack.method}' is to be shipped, but no student is trained with it"
            )
        for name, method in self.methods.items():
            least = max((term.least_classes for term in method.terms.values()), default=0)
            if len(self.pack.labels) + 1 < least:
                raise InvalidSettingsError(
                    f"'{name}' standardises logits, which needs {least - 1} structures and more; there are "
                    f"{len(self.pack.labels)}"
                )
        folds = self.teacher_folds()
        if self.dataset.fold not in folds:
            raise InvalidSettingsError(f"the teacher's folds {list(folds)} lack the dataset's fold {self.dataset.fold}")
        if len(folds) == 1:
            return
        for name, method in self.methods.items():
            if method.uses_features:
                raise InvalidSettingsError(
                    f"'{name}' compares encoder features, which an average of {len(folds)} folds does not have; "
                    "give the teacher one fold, or leave the method out"
                )
        if not self.teacher.accept_leakage:
            raise InvalidSettingsError(
                f"teachers of the folds {list(folds)} have seen cases that fold {self.dataset.fold} holds out, so that "
                "the evaluation on these would flatter the students; take the dataset's fold alone, or set the "
                "teacher's accept_leakage to true"
            )


def _check_epochs(epochs: int) -> None:
    if epochs < 1:
        raise InvalidSettingsError(f"epochs must be a whole number of at least 1, got {epochs}")

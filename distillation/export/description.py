"""A pack's manifest, read off the trained folder, its dataset and the recipe."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from distillation.plans import alpha_of, scale_features
from distillation.soft_labels import describe_soft_labels
from distillation.training_log import EXPORT_PACKAGES, package_versions
from distillation.training_settings import MINIMUM_WIDTH, PLANS_KEY, DistillationSettings, TrainingSettings
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.files import file_sha256
from KDSegmentatorLib.packs.manifest import (
    Label,
    Method,
    Normalization,
    Preprocessing,
    Provenance,
    Resampling,
    Windows,
)

if TYPE_CHECKING:
    from distillation.teacher import ModelFolder

STEP_FRACTION = 0.5
"""Step of the sliding window as a fraction of the patch: nnU-Net's default."""

_READERS = {"SimpleITKIO": None, "NibabelIO": None, "NibabelIOWithReorient": "RAS", "SimpleITKIOWithReorient": "RAS"}
"""nnU-Net's readers, and the axis order that they bring every image into; None leaves the file's own."""

_RESAMPLER = "resample_data_or_seg_to_shape"


def axes_of_reader(model: ModelFolder) -> str | None:
    """Return the axis order that the model's image reader brings every image into; None if it leaves the file's own.

    Raises:
        ExportError: images are read in a way that the inference library does not know.
    """
    reader = model.plans.get("image_reader_writer")
    if reader not in _READERS:
        raise ExportError(f"the plans read images with {reader}; supported are {', '.join(sorted(_READERS))}")
    return _READERS[reader]


def describe_preprocessing(model: ModelFolder, axis_codes: str) -> Preprocessing:
    """Return what nnU-Net did to the images that the network was trained on.

    Args:
        model: the trained folder.
        axis_codes: axis order that the dataset is stored in (:func:`distillation.dataset.check_grids`); a reader that
            reorients images decides instead.

    Raises:
        ExportError: the plans use something that the inference library does not do, or are incomplete.
    """
    plans, configuration = model.plans, model.configuration
    axis_codes = axes_of_reader(model) or axis_codes
    preprocessor = configuration.get("preprocessor_name")
    if preprocessor != "DefaultPreprocessor":
        raise ExportError(f"the plans preprocess with {preprocessor}; supported is DefaultPreprocessor")
    try:
        return Preprocessing(
            axis_codes=axis_codes,
            transpose_forward=_triple(plans["transpose_forward"], int),
            spacing=_triple(configuration["spacing"], float),
            normalization=_normalization(plans, configuration),
            image_resampling=_resampling(configuration, "data"),
            logits_resampling=_resampling(configuration, "probabilities"),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ExportError(
            f"{model.folder / 'plans.json'} does not say how images are preprocessed (missing or not valid: {error}); "
            "take the plans.json of the training"
        ) from error


def describe_windows(model: ModelFolder) -> Windows:
    """Return the sliding window that the network was trained for."""
    return Windows(
        patch_size=_triple(model.configuration["patch_size"], int),
        step_fraction=STEP_FRACTION,
        mirroring_axes=model.mirroring_axes,
    )


def describe_provenance(model: ModelFolder, teacher: ModelFolder | None) -> Provenance:
    """Return where the weights come from.

    Args:
        model: the trained folder.
        teacher: the family's teacher; None if ``model`` is the teacher.

    Raises:
        ExportError: the student was distilled from another teacher.
    """
    settings = TrainingSettings.from_plans(model.plans) if PLANS_KEY in model.plans else None
    distillation = settings.distillation if settings else None
    teaching = (distillation or settings.soft_labels) if settings else None
    method: Method = "teacher" if teacher is None else teaching.method if teaching else "plain"
    if teaching and teacher is None:
        raise ExportError(f"{model.folder} was distilled, so that it is not a teacher; export it as a student")
    if distillation and teacher:
        _check_teacher(model, teacher, distillation)
    losses = dict(distillation.losses) if distillation else {}
    if settings and settings.soft_labels:
        losses["soft_labels"] = describe_soft_labels(settings.soft_labels)
    logit = losses.get("logit")
    return Provenance(
        method=method,
        checkpoint_sha256=model.sha256,
        teacher_sha256=teacher.sha256 if teacher and distillation else None,
        temperature=logit["temperature"] if logit else None,
        weight=logit["weight"] if logit else None,
        seed=settings.seed if settings else None,
        iterations=settings.iterations if settings else None,
        created=datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        versions=_versions(model),
        losses={loss: {setting: str(value) for setting, value in values.items()} for loss, values in losses.items()},
    )


def checked_alpha(model: ModelFolder, teacher: ModelFolder | None, size: str) -> float:
    """Return the width factor of a size after comparing the network's widths with the teacher's.

    Raises:
        ExportError: the widths are not the teacher's times the size's factor.
    """
    own, reference = _widths(model), _widths(teacher or model)
    alpha = alpha_of(size)
    minimum = TrainingSettings.from_plans(model.plans).minimum_width if PLANS_KEY in model.plans else MINIMUM_WIDTH
    if own != scale_features(reference, alpha, minimum):
        raise ExportError(
            f"{model.folder} has the widths {own}, which is not {size} of the teacher's {reference}; name the right "
            "folder or size"
        )
    return alpha


def check_labels(labels: tuple[Label, ...], model: ModelFolder) -> None:
    """Check that the recipe describes exactly the labels that the network knows.

    Raises:
        ExportError: it does not.
    """
    described = sorted(label.value for label in labels)
    trained = sorted(int(value) for value in model.dataset["labels"].values() if int(value) != 0)
    if described != trained:
        raise ExportError(f"the recipe describes the labels {described}, but {model.folder} was trained on {trained}")


def _versions(model: ModelFolder) -> dict[str, str]:
    """Return the versions of the training as its checkpoint has them, and those of this export, marked as such.

    Stock nnU-Net's checkpoints do not say what they were trained with.
    """
    exported = {f"{name} (export)": version for name, version in package_versions(EXPORT_PACKAGES).items()}
    return {**(model.trained_with or {}), **exported}


def _check_teacher(model: ModelFolder, teacher: ModelFolder, distillation: DistillationSettings) -> None:
    """Check that the student's own teacher is the family's teacher, or has its fold among others.

    A student of an earlier version does not know its teacher's hash: it is checked if that teacher is still there.

    Raises:
        ExportError: it is another one.
    """
    own = distillation.teacher
    checkpoints = dict[int | str, Path](zip(own.folds, own.paths(), strict=True))
    checkpoint = checkpoints.get(teacher.fold)
    known = None
    if own.sha256 is not None:
        known = dict[int | str, str](zip(own.folds, own.sha256, strict=True)).get(teacher.fold)
    elif checkpoint is not None and checkpoint.is_file():
        known = file_sha256(checkpoint)
    if checkpoint is None or known not in (None, teacher.sha256):
        raise ExportError(
            f"{model.folder} was distilled from another teacher ({', '.join(map(str, own.paths()))}) than "
            f"{teacher.folder}, fold {teacher.fold}"
        )


def _widths(model: ModelFolder) -> list[int]:
    return [int(width) for width in model.configuration["architecture"]["arch_kwargs"]["features_per_stage"]]


def _normalization(plans: dict[str, Any], configuration: dict[str, Any]) -> Normalization:
    schemes, masks = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
    if len(schemes) != 1:
        raise ExportError(f"the network has {len(schemes)} input channels; packs have one")
    if schemes[0] == "ZScoreNormalization":
        return Normalization(scheme="ZScore", use_mask=bool(masks[0]))
    if schemes[0] == "CTNormalization":
        numbers = plans["foreground_intensity_properties_per_channel"]["0"]
        return Normalization(
            scheme="CT",
            mean=float(numbers["mean"]),
            std=float(numbers["std"]),
            percentile_00_5=float(numbers["percentile_00_5"]),
            percentile_99_5=float(numbers["percentile_99_5"]),
        )
    raise ExportError(f"the plans normalise with {schemes[0]}; supported are ZScoreNormalization and CTNormalization")


def _resampling(configuration: dict[str, Any], what: str) -> Resampling:
    function = configuration[f"resampling_fn_{what}"]
    arguments = configuration[f"resampling_fn_{what}_kwargs"]
    if function != _RESAMPLER or arguments.get("is_seg"):
        raise ExportError(f"the plans resample {what} with {function} {arguments}; supported is {_RESAMPLER}")
    return Resampling(
        order=int(arguments["order"]),
        order_z=int(arguments["order_z"]),
        force_separate_z=arguments.get("force_separate_z"),
    )


def _triple(values: Any, kind: type[Any]) -> Any:
    if len(values) != 3:
        raise ExportError(f"a 3-D configuration has three axes, got {values}; export 3d_fullres or 3d_lowres")
    return cast("tuple[Any, Any, Any]", tuple(kind(value) for value in values))

"""Any trained nnU-Net v2 model folder, or a zip of some, made into a pack without training.

The three files of one fold are read: ``plans.json``, ``dataset.json`` and a checkpoint. Nothing else of an archive is
unpacked, and no code of it runs (:mod:`distillation.teacher`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.dataset import label_values, read_header
from distillation.export.description import axes_of_reader, describe_preprocessing
from distillation.export.network import MeanOfFolds
from distillation.export.pack_folder import ExportedPack, write_pack
from distillation.export.samples import generated_window, image_windows
from distillation.export.terminology import described_labels
from distillation.model_files import DATASET, PLANS, FoundModel, fold_number, model_files
from distillation.recipe import PackRecipe
from distillation.teacher import ModelFolder, load_model_folder
from KDSegmentatorLib.errors import GeometryError, InvalidSettingsError, TeacherError
from KDSegmentatorLib.geometry import check_axis_codes
from KDSegmentatorLib.packs.manifest import Credit, Modality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.export.network import Storage

CANONICAL_AXES = "RAS"
"""Taken where nothing says how training images were stored: nibabel's canonical order, also TotalSegmentator's."""

_SPDX = re.compile(r"[A-Za-z0-9.+()-]+( [A-Za-z0-9.+()-]+)*")
_MR_CHANNEL = re.compile(r"mri?|t1\w*|t2\w*|flair|pd\w*|dwi|adc|swi|.*(mri|t1w?|t2w?|flair)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Import:
    """What came of an import.

    Attributes:
        exported: the pack.
        warnings: what a person should know or say with an option, one sentence each.
    """

    exported: ExportedPack
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model folder does not say about itself; None takes what the folder suggests, with a warning.

    Attributes:
        task: first part of the pack's id.
        title: one line for people.
        modality: ``CT`` or ``MR``.
        body_part: DICOM Body Part Examined.
        axes: axis order of the training images, for example ``LPS``.
        license: SPDX expression of the weights.
        credit: whom to credit for the weights.
    """

    task: str | None = None
    title: str | None = None
    modality: Modality | None = None
    body_part: str | None = None
    axes: str | None = None
    license: str | None = None
    credit: str | None = None


def import_model(
    source: Path,
    into: Path,
    *,
    model: str | None = None,
    fold: str | None = None,
    checkpoint: str = "checkpoint_final.pth",
    description: Description | None = None,
    images: Sequence[Path] = (),
    storage: Storage = "float16",
) -> Import:
    """Make a pack of size ``x1`` from a model folder or an archive of some; nothing is written on failure.

    Args:
        source: a model folder, a folder or zip file that holds some (``nnUNetv2_export_model_to_zip``).
        into: folder for the pack's folder; an earlier pack of the same id there is replaced.
        model: the model folder to take where there are several: its name or configuration.
        fold: ``0`` to ``4`` or ``all``, or several as ``0,1,2``, whose logits are averaged; None takes ``all`` if it
            is there, else the first.
        checkpoint: file name in the fold's folder.
        description: what the folder does not say.
        images: some images such as it was trained on: they give the axis order, and windows to compare networks on.
        storage: number format of the kernels in the file.

    Raises:
        InvalidSettingsError: an option names something that is not there, or has to be given.
        TeacherError: the source is no such model, is damaged, or holds what is not supported.
        ExportError: the network or its preprocessing is not what a pack can hold, or the disk is full.
        TrainingError: an image is not readable, or the images are stored in several axis orders.
    """
    description = description or Description()
    with model_files(source, model, fold, checkpoint) as found:
        loaded = _load(found, checkpoint)
        try:
            recipe, warnings = _recipe(loaded, description, found)
            axes, axes_warning = _axes(loaded, description.axes, images)
            exported = write_pack(
                loaded,
                size="x1",
                alpha=1.0,
                teacher=None,
                recipe=recipe,
                preprocessing=describe_preprocessing(loaded, axes),
                samples=lambda: image_windows(loaded, images) if images else [generated_window(loaded)],
                training_set=lambda: (None, None),
                into=into,
                storage=storage,
            )
        except (KeyError, TypeError, ValueError) as error:  # a number or a list that is not what nnU-Net writes there
            raise TeacherError(
                f"{source}: {PLANS} or {DATASET} is incomplete or damaged ({error!r}); take the files of one training"
            ) from error
    left_out = []
    if found.other_folds:
        left_out = [f"only fold {', '.join(found.folds)} is in the pack, not {', '.join(found.other_folds)}"]
        every = ",".join((*found.folds, *found.other_folds))
        if "all" not in every:
            left_out[0] += (
                f"; --fold {every} takes the mean of their logits, as stock nnU-Net predicts, for so many times the "
                "time and memory"
            )
    return Import(exported=exported, warnings=(*left_out, *axes_warning, *warnings))


def _load(found: FoundModel, checkpoint: str) -> ModelFolder:
    """Load the chosen fold, or the mean of several.

    Raises:
        TeacherError: one is missing, damaged or not supported, or they are of different trainings.
    """
    models = [load_model_folder(found.folder, fold_number(fold), checkpoint) for fold in found.folds]
    first = models[0]
    if len(models) == 1:
        return first
    for fold, model in zip(found.folds, models, strict=True):
        if (model.configuration_name, model.mirroring_axes) != (first.configuration_name, first.mirroring_axes):
            raise TeacherError(
                f"{found.folder}: fold {fold} was trained for {model.configuration_name}, mirrored along "
                f"{list(model.mirroring_axes)}, and fold {found.folds[0]} for {first.configuration_name}, along "
                f"{list(first.mirroring_axes)}; take folds of one training"
            )
    return replace(
        first,
        network=MeanOfFolds([model.network for model in models]).eval(),
        sha256=hashlib.sha256("".join(model.sha256 for model in models).encode()).hexdigest(),
    )


def _axes(model: ModelFolder, given: str | None, images: Sequence[Path]) -> tuple[str, tuple[str, ...]]:
    """Return the axis order of the training images, and a warning where it is a guess."""
    of_reader = axes_of_reader(model)
    if given is not None:
        try:
            check_axis_codes(given)
        except GeometryError as error:
            raise InvalidSettingsError(f"--axes: {error}") from error
    if of_reader is not None:
        if given not in (None, of_reader):
            raise InvalidSettingsError(f"the model's reader brings every image into {of_reader}; leave --axes out")
        return of_reader, ()
    stored = {read_header(image).axis_codes for image in images}
    if given is not None:
        return given, ()
    if len(stored) > 1:
        raise InvalidSettingsError(f"the images are stored in {', '.join(sorted(stored))}; give those of one order")
    if stored:
        return stored.pop(), ()
    return CANONICAL_AXES, (
        f"the folder does not say in which axis order its training images were stored: {CANONICAL_AXES} is taken; give "
        "--image with one of them, or --axes, if left and right or front and back come out exchanged",
    )


def _recipe(model: ModelFolder, description: Description, found: FoundModel) -> tuple[PackRecipe, tuple[str, ...]]:
    """Return what the pack says about itself, and warnings about what nobody said."""
    warnings = []
    name = re.sub(r"^Dataset\d+_", "", str(model.plans.get("dataset_name") or found.name))
    labels, unknown = described_labels(label_values(model.dataset))
    if unknown:
        warnings.append(f"no SNOMED CT code is known for {', '.join(unknown)}: Slicer shows them as tissue")
    task = description.task or re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:60].strip("-")
    if not task:
        raise InvalidSettingsError(f"{name!r} gives no name for the pack; give one with --task")
    if description.license is None:
        warnings.append(
            "nobody said under which licence the weights are; give --license and --credit before passing them on"
        )
    weights = Credit(
        license=description.license or "LicenseRef-unknown",
        text=description.credit or f"Whoever trained the nnU-Net model {name}; not known to this pack.",
    )
    trained = f"{model.trainer or 'nnU-Net'}, {model.configuration_name}, {found.folds_text}"
    return PackRecipe(
        version="1.0.0",
        task=task,
        title=description.title or name.replace("_", " "),
        modality=description.modality or _modality(model),
        body_part=description.body_part or "WHOLEBODY",
        method="teacher",
        labels=labels,
        data=_data_credit(model.dataset, name),
        weights=weights,
        intended_use=f"What the model {name} was published for. Imported from its nnU-Net folder ({trained}).",
        limits=(
            "Not a medical device. Those of the model, see its publication. The pack does not know how large the "
            "training images and structures were, so that unusual images and results are not noticed."
        ),
    ), tuple(warnings)


def _data_credit(dataset: dict[str, Any], name: str) -> Credit:
    """Return what ``dataset.json`` says about the training data, as far as it does."""
    license_ = str(dataset.get("licence") or dataset.get("license") or "").strip()
    known = [str(dataset[key]).strip() for key in ("name", "description", "reference") if dataset.get(key)]
    return Credit(
        license=license_ if _SPDX.fullmatch(license_) else "LicenseRef-unknown",
        text="; ".join(filter(None, known)) or f"The data that {name} was trained on; see its publication.",
    )


def _modality(model: ModelFolder) -> Modality:
    (channel,) = (str(name).strip() for name in model.dataset["channel_names"].values())
    if channel.casefold() == "ct":
        return "CT"
    if _MR_CHANNEL.fullmatch(channel):
        return "MR"
    raise InvalidSettingsError(
        f"the model's channel is called {channel!r}, which is neither CT nor MR; give --modality"
    )

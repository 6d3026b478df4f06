"""Any trained nnU-Net v2 model folder, or a zip of some, made into a pack without training.

The three files of one fold are read: ``plans.json``, ``dataset.json`` and a checkpoint. Nothing else of an archive is
unpacked, and no code of it runs (:mod:`distillation.teacher`).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from distillation.dataset import label_values, read_header
from distillation.export.description import axes_of_reader, describe_preprocessing
from distillation.export.pack import ExportedPack, write_pack
from distillation.export.samples import generated_window, image_windows
from distillation.export.terminology import described_labels
from distillation.recipe import PackRecipe
from distillation.teacher import ModelFolder, load_model_folder
from KDSegmentatorLib.errors import GeometryError, InvalidSettingsError, TeacherError
from KDSegmentatorLib.geometry import check_axis_codes
from KDSegmentatorLib.packs.manifest import Credit, Modality

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from distillation.export.network import Storage

PLANS, DATASET = "plans.json", "dataset.json"
CANONICAL_AXES = "RAS"
"""Taken where nothing says how training images were stored: nibabel's canonical order, also TotalSegmentator's."""

_DEPTH = 4  # results/DatasetXXX_Name/Trainer__Plans__Configuration/fold_0 at most
_PREFERRED = ("3d_fullres", "3d_lowres")
_SPDX = re.compile(r"[A-Za-z0-9.+()-]+( [A-Za-z0-9.+()-]+)*")
_LARGEST_FILE = 16 << 30  # a checkpoint of the largest preset has 2 GB
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
        fold: ``0`` to ``4`` or ``all``; None takes ``all`` if it is there, else the first.
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
    with _model_files(source, model, fold, checkpoint) as found:
        loaded = load_model_folder(found.folder, found.fold, checkpoint)
        try:
            recipe, warnings = _recipe(loaded, description, found.name)
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
    left_out = (
        [f"only fold {found.fold} is in the pack, not {', '.join(found.other_folds)}"] if found.other_folds else []
    )
    return Import(exported=exported, warnings=(*left_out, *axes_warning, *warnings))


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A model folder on disk and what was chosen in it."""

    folder: Path
    name: str
    fold: int | Literal["all"]
    other_folds: tuple[str, ...]


@contextlib.contextmanager
def _model_files(source: Path, model: str | None, fold: str | None, checkpoint: str) -> Iterator[_Found]:
    """Give the chosen model folder; that of an archive lies in a temporary folder."""
    if source.is_dir():
        files = {
            PurePosixPath(path.relative_to(source).as_posix())
            for depth in range(_DEPTH)
            for name in (PLANS, "fold_*/*.pth")
            for path in source.glob("*/" * depth + name)
        }
        parent = _chosen_model(files, model, source)
        name, others = _chosen_fold(files, parent, fold, checkpoint, source)
        folder = source / parent
        yield _Found(folder=folder, name=folder.resolve().name, fold=_number(name), other_folds=others)
        return
    if not source.is_file():
        raise TeacherError(f"{source}: no such file or folder; give an nnU-Net v2 model folder, or a zip file of one")
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise TeacherError(
            f"{source} is not a readable zip file ({error}); give a model folder or a zip file"
        ) from error
    with archive, tempfile.TemporaryDirectory(prefix="kdseg-import-") as temporary:
        members = {PurePosixPath(info.filename): info for info in archive.infolist() if not info.is_dir()}
        files = {path for path in members if path.name == PLANS or path.suffix == ".pth"}
        parent = _chosen_model(files, model, source)
        name, others = _chosen_fold(files, parent, fold, checkpoint, source)
        folder = Path(temporary) / "model"
        for wanted in (PLANS, DATASET, f"fold_{name}/{checkpoint}"):
            info = members.get(parent / wanted)
            if info is None:
                raise TeacherError(f"{source} lacks {parent / wanted}; export the model again")
            _unpack(archive, info, folder / wanted, source)
        yield _Found(folder=folder, name=parent.name or source.stem, fold=_number(name), other_folds=others)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, source: Path) -> None:
    """Write one member to a path of our own choice: its name decides nothing."""
    if info.file_size > _LARGEST_FILE:
        raise TeacherError(f"{source}: {info.filename} has {info.file_size:,} bytes, which no checkpoint has")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(info) as member, path.open("wb") as file:
            shutil.copyfileobj(member, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise TeacherError(f"{source}: {info.filename} cannot be unpacked ({error}); export the model again") from error


def _chosen_model(files: set[PurePosixPath], model: str | None, source: Path) -> PurePosixPath:
    """Return the folder of the model to take, relative to the source."""
    found = sorted({path.parent for path in files if path.name == PLANS})
    if not found:
        raise TeacherError(
            f"{source} holds no {PLANS}: it is not a trained nnU-Net v2 model; give the folder "
            "Trainer__Plans__Configuration, or a zip file of nnUNetv2_export_model_to_zip"
        )
    names = {folder: folder.name or source.resolve().name for folder in found}
    listed = ", ".join(sorted(names.values()))
    if model is not None:
        found = [folder for folder in found if model in (names[folder], _configuration(names[folder]))]
        if not found:
            raise InvalidSettingsError(f"{source} has no model {model!r}; it has: {listed}")
    elif len(found) > 1:
        for configuration in _PREFERRED:
            of_it = [folder for folder in found if _configuration(names[folder]) == configuration]
            if of_it:
                found = of_it
                break
    if len(found) > 1:
        raise InvalidSettingsError(
            f"{source} holds several models: {listed}; name one with --model, or give its folder"
        )
    return found[0]


def _chosen_fold(
    files: set[PurePosixPath], model: PurePosixPath, fold: str | None, checkpoint: str, source: Path
) -> tuple[str, tuple[str, ...]]:
    """Return the fold to take and those that are left out."""
    folds: dict[str, list[str]] = {}
    for path in files:
        if path.parent.parent == model and path.parent.name.startswith("fold_"):
            folds.setdefault(path.parent.name.removeprefix("fold_"), []).append(path.name)
    usable = sorted(name for name, checkpoints in folds.items() if checkpoint in checkpoints and _is_fold(name))
    if not usable:
        others = sorted({name for names in folds.values() for name in names})
        have = f"its folds hold {', '.join(others)}: name one with --checkpoint" if others else "it has no trained fold"
        raise TeacherError(f"{source / model} has no fold with {checkpoint}; {have}")
    chosen = fold or ("all" if "all" in usable else usable[0])
    if chosen not in usable:
        raise InvalidSettingsError(
            f"{source / model} has no fold {chosen} with {checkpoint}; it has: {', '.join(usable)}"
        )
    return chosen, tuple(name for name in usable if name != chosen)


def _is_fold(name: str) -> bool:
    return name == "all" or name.isdecimal()


def _number(fold: str) -> int | Literal["all"]:
    return "all" if fold == "all" else int(fold)


def _configuration(name: str) -> str:
    """Return the configuration in a model folder's name, ``Trainer__Plans__Configuration``."""
    return name.rpartition("__")[2]


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


def _recipe(model: ModelFolder, description: Description, folder_name: str) -> tuple[PackRecipe, tuple[str, ...]]:
    """Return what the pack says about itself, and warnings about what nobody said."""
    warnings = []
    name = re.sub(r"^Dataset\d+_", "", str(model.plans.get("dataset_name") or folder_name))
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
    trained = f"{model.trainer or 'nnU-Net'}, {model.configuration_name}, fold {model.fold}"
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

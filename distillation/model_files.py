"""Where a trained nnU-Net model lies in a folder or a zip file, and which of its models and folds are taken."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from KDSegmentatorLib.errors import InvalidSettingsError, TeacherError

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANS, DATASET = "plans.json", "dataset.json"

_DEPTH = 4  # results/DatasetXXX_Name/Trainer__Plans__Configuration/fold_0 at most
_PREFERRED = ("3d_fullres", "3d_lowres")
_LARGEST_FILE = 16 << 30  # a checkpoint of the largest preset has 2 GB


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model folder on disk and what was chosen in it."""

    folder: Path
    name: str
    folds: tuple[str, ...]
    other_folds: tuple[str, ...]

    @property
    def folds_text(self) -> str:
        """For people: ``fold 0``, or ``the mean of the folds 0, 1``."""
        return f"fold {self.folds[0]}" if len(self.folds) == 1 else f"the mean of the folds {', '.join(self.folds)}"


@contextlib.contextmanager
def model_files(source: Path, model: str | None, fold: str | None, checkpoint: str) -> Iterator[FoundModel]:
    """Give the chosen model folder; that of an archive lies in a temporary folder."""
    if source.is_dir():
        files = {
            PurePosixPath(path.relative_to(source).as_posix())
            for depth in range(_DEPTH)
            for name in (PLANS, "fold_*/*.pth")
            for path in source.glob("*/" * depth + name)
        }
        parent = _chosen_model(files, model, source)
        folds, others = _chosen_folds(files, parent, fold, checkpoint, source)
        folder = source / parent
        yield FoundModel(folder=folder, name=folder.resolve().name, folds=folds, other_folds=others)
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
        folds, others = _chosen_folds(files, parent, fold, checkpoint, source)
        folder = Path(temporary) / "model"
        for wanted in (PLANS, DATASET, *(f"fold_{name}/{checkpoint}" for name in folds)):
            info = members.get(parent / wanted)
            if info is None:
                raise TeacherError(f"{source} lacks {parent / wanted}; export the model again")
            _unpack(archive, info, folder / wanted, source)
        yield FoundModel(folder=folder, name=parent.name or source.stem, folds=folds, other_folds=others)


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


def _chosen_folds(
    files: set[PurePosixPath], model: PurePosixPath, fold: str | None, checkpoint: str, source: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the folds to take and those that are left out."""
    folds: dict[str, list[str]] = {}
    for path in files:
        if path.parent.parent == model and path.parent.name.startswith("fold_"):
            folds.setdefault(path.parent.name.removeprefix("fold_"), []).append(path.name)
    usable = sorted(name for name, checkpoints in folds.items() if checkpoint in checkpoints and _is_fold(name))
    if not usable:
        others = sorted({name for names in folds.values() for name in names})
        have = f"its folds hold {', '.join(others)}: name one with --checkpoint" if others else "it has no trained fold"
        raise TeacherError(f"{source / model} has no fold with {checkpoint}; {have}")
    chosen = tuple((fold or ("all" if "all" in usable else usable[0])).replace(" ", "").split(","))
    for each in chosen:
        if each not in usable:
            raise InvalidSettingsError(
                f"{source / model} has no fold {each} with {checkpoint}; it has: {', '.join(usable)}"
            )
    if len(set(chosen)) != len(chosen):
        raise InvalidSettingsError(f"--fold {fold} names a fold twice")
    return chosen, tuple(name for name in usable if name not in chosen)


def _is_fold(name: str) -> bool:
    return name == "all" or name.isdecimal()


def _configuration(name: str) -> str:
    """Return the configuration in a model folder's name, ``Trainer__Plans__Configuration``."""
    return name.rpartition("__")[2]


def fold_number(fold: str) -> int | Literal["all"]:
    """Return a fold's name as nnU-Net has it."""
    return "all" if fold == "all" else int(fold)

"""A dataset in nnU-Net's raw layout, checked before hours are spent on it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.errors import GeometryError, ImageReadError, InvalidSettingsError, TrainingError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import read_grid

if TYPE_CHECKING:
    from collections.abc import Mapping

_MESSAGES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training case: its name, image and reference segmentation."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """A checked dataset.

    Attributes:
        folder: ``DatasetXXX_Name`` with ``imagesTr``, ``labelsTr`` and ``dataset.json``.
        description: content of ``dataset.json``.
        cases: sorted by name.
    """

    folder: Path
    description: dict[str, Any]
    cases: tuple[Case, ...]

    @property
    def labels(self) -> dict[str, int]:
        """Label names with their values, background included."""
        return label_values(self.description)

    def case(self, name: str) -> Case:
        """Return a case by its name.

        Raises:
            TrainingError: the dataset has no such case.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise TrainingError(f"{self.folder} has no case {name!r}, though the split names it; prepare the dataset again")


def read_dataset(folder: Path) -> RawDataset:
    """Read and check a dataset: its description, and that image and label files belong together.

    Raises:
        TrainingError: something is missing, does not fit together, or is not supported; the message says what.
    """
    if not re.fullmatch(r"Dataset\d{3}_.+", folder.name):
        raise TrainingError(f"{folder}: nnU-Net datasets are folders called DatasetXXX_Name with three digits")
    description = read_description(folder / "dataset.json")
    ending = description["file_ending"]
    images = _names(folder / "imagesTr", ending)
    labels = _names(folder / "labelsTr", ending)
    cases = _match(folder, images, labels)
    if len(cases) != int(description.get("numTraining", len(cases))):
        raise TrainingError(
            f"{folder / 'dataset.json'} announces numTraining = {description['numTraining']}, but there are "
            f"{len(cases)} cases in imagesTr; correct the number or add the missing files"
        )
    return RawDataset(folder=folder, description=description, cases=cases)


def label_values(description: Mapping[str, Any]) -> dict[str, int]:
    """Return the label names of a checked ``dataset.json`` with their values, which may be text there."""
    return {str(name): int(value) for name, value in description["labels"].items()}


def read_header(path: Path) -> Volume:
    """Return an image's grid without its voxels (they are all zero and take no memory).

    The header passes the same checks as that of an image to be segmented, so that an image whose sform and qform
    disagree does not teach a wrong axis order.

    Raises:
        TrainingError: the file is not readable, not 3-D, or its geometry is not usable.
    """
    try:
        return read_grid(path)
    except (GeometryError, ImageReadError) as error:
        raise TrainingError(str(error)) from error


def check_grids(dataset: RawDataset) -> str:
    """Check every header: readable, image and label on one grid, one axis order in the whole dataset.

    nnU-Net learns from the array axes as they are stored, so that cases in another order would be learnt as another
    anatomy.

    Returns:
        The axis codes of the dataset, for example ``"RAS"``.

    Raises:
        TrainingError: a case does not pass; the message names it.
    """
    by_codes: dict[str, list[str]] = {}
    for case in dataset.cases:
        image = read_header(case.image)
        if not image.same_grid(read_header(case.label)):
            raise TrainingError(f"{case.label} is not on the grid of {case.image}; resample it")
        by_codes.setdefault(image.axis_codes, []).append(case.name)
    if len(by_codes) > 1:
        usual = max(by_codes, key=lambda codes: len(by_codes[codes]))
        odd = [f"{name} ({codes})" for codes, names in by_codes.items() if codes != usual for name in names]
        raise TrainingError(
            f"most images of {dataset.folder.name} are stored in axis order {usual}, but not {_some(odd)}; "
            "reorient them all to one order"
        )
    return next(iter(by_codes))


def read_description(path: Path) -> dict[str, Any]:
    """Read and check the ``dataset.json`` of a dataset or of a model folder.

    Raises:
        TrainingError: it is missing, damaged or incomplete, or describes what is not supported (regions, an ignore
            label, several channels); the message says what.
    """
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(
            f"{path}: no such file; datasets in nnU-Net v2's raw layout and trained model folders hold one"
        ) from None
    except (OSError, ValueError, RecursionError) as error:  # not text, not JSON, or nested without end
        raise TrainingError(f"{path} cannot be read as JSON: {error}") from error
    for key, kind in (("channel_names", dict), ("labels", dict), ("file_ending", str)):
        if not isinstance(description, dict) or not isinstance(description.get(key), kind):
            raise TrainingError(f"{path} lacks a valid '{key}'; see nnU-Net's dataset format")
    if len(description["channel_names"]) != 1:
        raise TrainingError(
            f"{path} names {len(description['channel_names'])} channels; images with exactly one are supported"
        )
    _check_labels(path, description["labels"])
    return dict(description)


def _check_labels(path: Path, labels: dict[str, Any]) -> None:
    if "ignore" in labels:
        raise TrainingError(f"{path} has an ignore label, which is not supported; train without it")
    for name, value in labels.items():
        if isinstance(value, list | tuple):
            raise TrainingError(
                f"{path}: label '{name}' is a region; only plain labels are supported, so train with these"
            )
        if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdecimal():
            raise TrainingError(f"{path}: label '{name}' has the value {value!r}, which is not a whole number")
    values = sorted(int(value) for value in labels.values())
    if int(labels.get("background", -1)) != 0 or values != list(range(len(values))) or len(values) < 2:
        raise TrainingError(f"{path}: labels must be background = 0 and then 1, 2, ... without gaps, got {labels}")


def _names(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder; give a dataset in nnU-Net v2's raw layout")
    return {path.name.removesuffix(ending): path for path in sorted(folder.iterdir()) if path.name.endswith(ending)}


def _match(folder: Path, images: dict[str, Path], labels: dict[str, Path]) -> tuple[Case, ...]:
    first_channel = "_0000"
    odd = [name for name in images if not name.endswith(first_channel)]
    if odd:
        raise TrainingError(f"{folder / 'imagesTr'}: {_some(odd)} should end in {first_channel}, the only channel")
    names = [name.removesuffix(first_channel) for name in images]
    unlabelled = sorted(set(names) - set(labels))
    if unlabelled:
        raise TrainingError(f"{folder / 'labelsTr'} lacks the segmentation of {_some(unlabelled)}")
    orphans = sorted(set(labels) - set(names))
    if orphans:
        raise TrainingError(f"{folder / 'imagesTr'} lacks the image of {_some(orphans)}")
    if not names:
        raise TrainingError(f"{folder} holds no training case")
    return tuple(Case(name=name, image=images[f"{name}{first_channel}"], label=labels[name]) for name in sorted(names))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_MESSAGES_SHOWN])
    return shown if len(names) <= _MESSAGES_SHOWN else f"{shown} and {len(names) - _MESSAGES_SHOWN} more"


def find_dataset(raw: Path, name: str) -> RawDataset:
    """Read a dataset below the raw folder by its name.

    Raises:
        InvalidSettingsError: there is none of this name.
        TrainingError: see :func:`read_dataset`.
    """
    folder = raw / name
    if not folder.is_dir():
        present = sorted(path.name for path in raw.glob("Dataset*")) if raw.is_dir() else []
        raise InvalidSettingsError(
            f"there is no dataset {name} in {raw} (it holds: {', '.join(present) or 'none'}); give the folder of "
            "nnU-Net's raw datasets with --raw"
        )
    return read_dataset(folder)

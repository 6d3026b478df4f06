"""Cases from outside: a folder of images and reference segmentations that no network was trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.dataset import Case, read_header
from KDSegmentatorLib.errors import GeometryError, ImageReadError, TrainingError
from KDSegmentatorLib.io.images import read_volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from KDSegmentatorLib.packs.manifest import Label

_LAYOUTS = (("imagesTs", "labelsTs"), ("imagesTr", "labelsTr"), ("images", "labels"))
_CHANNEL = "_0000"


@dataclass(frozen=True, kw_only=True)
class OutsideCases:
    """Cases to test on.

    Attributes:
        name: the folder's name, or that in its ``dataset.json``.
        cases: sorted by name.
        labels: values that the references have a meaning for; the others are not scored.
    """

    name: str
    cases: tuple[Case, ...]
    labels: tuple[int, ...]


def read_outside_cases(folder: Path, labels: Sequence[Label]) -> OutsideCases:
    """Read and check a folder in nnU-Net's raw layout: ``imagesTs`` and ``labelsTs``, or ``imagesTr`` and ``labelsTr``.

    Without a ``dataset.json`` the references are taken to have the labels' values; with one, its names are compared.

    Args:
        folder: holds ``NAME_0000.nii.gz`` and ``NAME.nii.gz``, or files of the ``file_ending`` of its ``dataset.json``.
        labels: of the packs.

    Raises:
        TrainingError: a folder, image or segmentation is missing or not readable, both are not on one grid, or the
            values of a reference mean something else; the message names the file.
    """
    pair = next(
        ((folder / a, folder / b) for a, b in _LAYOUTS if (folder / a).is_dir() and (folder / b).is_dir()), None
    )
    if pair is None:
        raise TrainingError(
            f"{folder} holds neither imagesTs and labelsTs nor imagesTr and labelsTr; give such a folder"
        )
    images, references = pair
    description = _description(folder / "dataset.json")
    ending = str(description.get("file_ending", ".nii.gz"))
    names = sorted(path.name.removesuffix(ending) for path in references.iterdir() if path.name.endswith(ending))
    if not names:
        raise TrainingError(f"{references} holds no segmentation that ends in {ending}")
    cases = tuple(
        Case(name=name, image=images / f"{name}{_CHANNEL}{ending}", label=references / f"{name}{ending}")
        for name in names
    )
    scored = _scored(labels, description.get("labels"), folder / "dataset.json")
    known = {0, *scored} if "labels" not in description else {int(value) for value in description["labels"].values()}
    for case in cases:
        _check(case, known)
    return OutsideCases(name=str(description.get("name") or folder.name), cases=cases, labels=scored)


def _description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "labels" in content:
            content["labels"] = {str(name): int(value) for name, value in content["labels"].items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); correct or remove it") from error
    return dict(content)


def _scored(labels: Sequence[Label], described: dict[str, int] | None, path: Path) -> tuple[int, ...]:
    """Return the values of the pack's labels that the references have, by name if they have names."""
    if described is None:
        return tuple(label.value for label in labels)
    by_name = {_plain(name): value for name, value in described.items()}
    for label in labels:
        value = by_name.get(_plain(label.name), label.value)
        if value != label.value:
            raise TrainingError(f"{path} gives {label.name!r} the value {value}, the packs give it {label.value}")
    scored = tuple(label.value for label in labels if _plain(label.name) in by_name)
    if not scored:
        raise TrainingError(
            f"{path} has no label of the packs ({', '.join(label.name for label in labels[:3])}, ...); correct it"
        )
    return scored


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _check(case: Case, known: set[int]) -> None:
    if not case.image.is_file():
        raise TrainingError(f"{case.image} is missing, the image of {case.label}")
    try:
        reference = read_volume(case.label, allow_constant=True)
    except (GeometryError, ImageReadError) as error:
        raise TrainingError(str(error)) from error
    if not read_header(case.image).same_grid(reference):
        raise TrainingError(f"{case.label} is not on the grid of {case.image}; resample it")
    foreign = sorted({int(value) for value in np.unique(reference.voxels)} - known)
    if foreign:
        raise TrainingError(f"{case.label} has the values {foreign[:5]}, which the packs' labels do not have")

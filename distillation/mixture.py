"""One dataset out of several: cases of different scanners and studies, in one axis order, with one list of labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.dataset import find_dataset, read_description
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.geometry import Volume, nonzero_box
from KDSegmentatorLib.io.files import atomic_folder, write_json
from KDSegmentatorLib.io.images import read_volume, write_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MARGIN = 3
"""Voxels kept round a region that is cut out, so that its surface is no image border."""


@dataclass(frozen=True, kw_only=True)
class MixturePart:
    """A dataset that a mixture takes its cases from.

    Attributes:
        dataset: ``DatasetXXX_Name`` in the raw folder.
        region_only: set voxels outside all labels to 0 and cut the rest off, as brain extraction leaves a head.
        dropped: label values that count as background (they still belong to the region of ``region_only``).
        joined: make all labels one, of value 1.
    """

    dataset: str
    region_only: bool = False
    dropped: tuple[int, ...] = ()
    joined: bool = False


def write_mixture(
    parts: Sequence[MixturePart],
    raw: Path,
    name: str,
    labels: dict[str, int],
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a raw dataset with the cases of several, all in the axis order of the first case; it appears whole.

    Args:
        parts: where from; cases keep their names.
        raw: folder of the datasets.
        name: ``DatasetXXX_Name`` of the mixture.
        labels: its foreground labels, name to value.
        progress: called after every case with the number done and the number of all.

    Returns:
        The dataset's folder.

    Raises:
        InvalidSettingsError: it is there already, two cases have one name, or a case has labels beyond ``labels``.
        TrainingError: a dataset is missing or damaged.
    """
    folder = raw / name
    if folder.exists():
        raise InvalidSettingsError(f"{folder} is there already; remove it to mix it again")
    cases = [(part, case) for part in parts for case in find_dataset(raw, part.dataset).cases]
    names = [case.name for _, case in cases]
    if len(set(names)) < len(names):
        twice = next(each for each in names if names.count(each) > 1)
        raise InvalidSettingsError(f"two datasets of the mixture have a case {twice}; rename one")
    codes: str | None = None
    with atomic_folder(folder) as temporary:
        for images in ("imagesTr", "labelsTr"):
            (temporary / images).mkdir()
        for number, (part, case) in enumerate(cases, start=1):
            image, reference = read_volume(case.image), read_volume(case.label)
            codes = codes or image.axis_codes
            image, reference = _changed(image.reoriented(codes), reference.reoriented(codes), part)
            unknown = sorted(set(np.unique(reference.voxels).tolist()) - {0, *labels.values()})
            if unknown:
                raise InvalidSettingsError(f"{case.label} has the labels {unknown}, which the recipe does not list")
            reference = reference.with_voxels(reference.voxels.astype(np.uint8))
            write_volume(image, temporary / "imagesTr" / f"{case.name}_0000.nii.gz")
            write_volume(reference, temporary / "labelsTr" / f"{case.name}.nii.gz")
            if progress is not None:
                progress(number, len(cases))
        write_json(temporary / "dataset.json", _description(raw / parts[0].dataset, labels, len(cases)))
    return folder


def _changed(image: Volume, reference: Volume, part: MixturePart) -> tuple[Volume, Volume]:
    voxels, labels = image.voxels, reference.voxels
    inside = labels > 0
    if part.region_only:
        voxels = np.where(inside, voxels, 0).astype(voxels.dtype)
    labels = np.where(np.isin(labels, part.dropped), 0, labels)
    if part.joined:
        labels = (labels > 0).astype(np.uint8)
    image, reference = image.with_voxels(voxels), reference.with_voxels(labels)
    if not part.region_only:
        return image, reference
    box = tuple(
        slice(max(0, side.start - _MARGIN), min(size, side.stop + _MARGIN))
        for side, size in zip(nonzero_box(inside), inside.shape, strict=True)
    )
    return _cut(image, box), _cut(reference, box)


def _cut(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """Return the part of a volume in a box (z, y, x)."""
    first = np.array([side.start for side in reversed(box)])
    corner = volume.affine @ np.append(first, 1.0)
    origin = tuple(float(value) for value in corner[:3])
    return Volume(np.ascontiguousarray(volume.voxels[box]), volume.spacing, origin, volume.direction)  # type: ignore[arg-type]


def _description(first: Path, labels: dict[str, int], count: int) -> dict[str, Any]:
    return {
        "channel_names": read_description(first / "dataset.json")["channel_names"],
        "labels": {"background": 0, **labels},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }

"""Soft labels: what teachers say about every training voxel, computed once and kept on disk.

A teacher that runs beside its student makes a step of a narrow student several times as long, and an ensemble of
teachers many times. Its probabilities on the preprocessed, not augmented case are computed once instead
(:mod:`distillation.teaching`), and nnU-Net's own augmentation carries them along with the image as its
``regression_target``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

from KDSegmentatorLib.errors import TeacherError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    from distillation.training_settings import SoftLabelSettings

TOP_CLASSES = 4
"""Classes that are kept of a voxel, the most probable ones."""

INDEX_NAME = "soft_labels.json"
_STEPS = 255
_CLASSES_OF_A_BYTE = 256


def soft_label_index(folder: Path) -> dict[str, Any]:
    """Return how soft labels were made: of which dataset, preprocessing, teachers (hashes) and mirroring.

    Raises:
        TeacherError: there are none.
    """
    try:
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TeacherError(f"{folder} holds no soft labels ({error}); run 'kdseg-distill teach' first") from error
    if not isinstance(index, dict):
        raise TeacherError(f"{folder / INDEX_NAME} is damaged; remove the folder and run 'kdseg-distill teach' again")
    return index


def check_soft_labels(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Check that soft labels were made as wanted.

    Raises:
        TeacherError: there are none, or they are of other teachers, another dataset or another preprocessing.
    """
    found = soft_label_index(folder)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise TeacherError(
                f"the soft labels in {folder} have {key} {found.get(key)!r}, wanted is {value!r}; remove the "
                "folder and run 'kdseg-distill teach' again"
            )


def describe_soft_labels(settings: SoftLabelSettings) -> dict[str, Any]:
    """Return how a student learnt from soft labels, and whose they were, where that is still known."""
    values = {
        name: value
        for name, value in asdict(settings).items()
        if name not in ("method", "folder", "teachers", "mirroring_axes")
    }
    if settings.hard:
        return values
    teachers, axes = settings.teachers, settings.mirroring_axes
    if teachers is None:  # plans of an earlier version do not say
        try:
            index = soft_label_index(Path(settings.folder))
        except TeacherError:
            return values
        teachers, axes = index["teachers"], index["mirroring_axes"]
    return {**values, "teachers": " ".join(teachers), "mirroring_axes": list(axes or ())}


def compressed(values: torch.Tensor) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return the largest probabilities of (classes, z, y, x) as (2, top, z, y, x): classes, and shares of 255.

    Bytes, or 16 bits where there are more classes than a byte counts.
    """
    kind = np.uint8 if values.shape[0] <= _CLASSES_OF_A_BYTE else np.uint16
    top = torch.topk(values, min(TOP_CLASSES, values.shape[0]), dim=0)
    return np.stack([top.indices.numpy(), (top.values * _STEPS).round().numpy()]).astype(kind)


def expanded(stored: npt.NDArray[np.uint8 | np.uint16], classes: int) -> torch.Tensor:
    """Return probabilities (classes, z, y, x) that add up to 1; voxels with nothing stored are background."""
    indices = torch.from_numpy(stored[0].astype(np.int64))
    values = torch.from_numpy(stored[1].astype(np.float32))
    dense = torch.zeros((classes, *indices.shape[1:])).scatter_add_(0, indices, values)
    return normalized(dense)


def normalized(dense: torch.Tensor) -> torch.Tensor:
    """Return (classes, z, y, x) scaled so that each voxel adds up to 1; the background takes what is missing."""
    total = dense.sum(0)
    dense[0] += (total <= 0).float()
    return dense / total.where(total > 0, torch.ones(()))


class SoftLabelLoader:
    """Batches of one of nnU-Net's loaders, with soft labels that are augmented along: key ``soft``.

    Args:
        stock: nnU-Net's loader, which chooses cases and patches and has the augmentation.
        folder: the soft labels.
        classes: background included.
    """

    def __init__(self, stock: nnUNetDataLoader, folder: Path, classes: int) -> None:
        self.stock = stock
        self.folder = folder
        self.classes = classes

    def generate_train_batch(self) -> dict[str, Any]:
        """Return ``data`` and ``soft`` (batch, channels, z, y, x), ``target`` of every resolution, and ``keys``."""
        names = self.stock.get_indices()
        with torch.no_grad():
            samples = [self._sample(name, position) for position, name in enumerate(names)]
        targets = [sample["segmentation"] for sample in samples]
        several = isinstance(targets[0], list)
        return {
            "data": torch.stack([sample["image"] for sample in samples]).float(),
            "target": [torch.stack(level) for level in zip(*targets, strict=True)] if several else torch.stack(targets),
            # interpolation and what lies outside the image leave sums other than 1
            "soft": torch.stack([normalized(sample["regression_target"].clamp(min=0)) for sample in samples]),
            "keys": names,
        }

    def _sample(self, name: str, position: int) -> dict[str, Any]:
        image, labels, _, properties = self.stock._data.load_case(name)
        force_foreground = self.stock.get_do_oversample(position)
        corner, end = self.stock.get_bbox(image.shape[1:], force_foreground, properties["class_locations"])
        box = [list(sides) for sides in zip(corner, end, strict=True)]
        soft = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        if soft.shape[2:] != image.shape[1:]:
            raise TeacherError(
                f"the soft labels of {name} have {soft.shape[2:]} voxels and its preprocessed image "
                f"{image.shape[1:]}; run 'kdseg-distill teach' again"
            )
        cropped = crop_and_pad_nd(soft.reshape(-1, *soft.shape[2:]), box, 0).reshape((2, -1, *self.stock.patch_size))
        sample: dict[str, Any] = self.stock.transforms(
            image=torch.from_numpy(crop_and_pad_nd(image, box, 0)).float(),
            segmentation=torch.from_numpy(crop_and_pad_nd(labels, box, -1, cast_cropped_to=np.int16)),
            regression_target=expanded(cropped, self.classes),
        )
        return sample

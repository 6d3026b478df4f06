"""Soft labels: what teachers say about every training voxel, computed once and kept on disk.

A teacher that runs beside its student makes a step of a narrow student several times as long, and an ensemble of
teachers many times. Its probabilities on the preprocessed, not augmented case are computed once instead, and nnU-Net's
own augmentation carries them along with the image as its ``regression_target``.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import nn

from KDSegmentatorLib.errors import TeacherError
from KDSegmentatorLib.io.files import atomic_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from distillation.settings import SoftLabelSettings

TOP_CLASSES = 4
"""Classes that are kept of a voxel, the most probable ones."""

INDEX_NAME = "soft_labels.json"
_STEPS = 255


@dataclass(frozen=True, kw_only=True)
class TeachingNetwork:
    """A network that labels training cases.

    Attributes:
        network: gives logits (batch, classes, z, y, x), or a list with these first; in evaluation mode.
        sha256: of its weights' file.
        trained_on: names of the cases that it was trained on; None if nobody knows. Where others are known not to have
            seen a case, they label it alone: what a network says of its own training cases is hardly more than their
            references.
    """

    network: nn.Module
    sha256: str
    trained_on: frozenset[str] | None = None


def teach(
    teachers: Sequence[TeachingNetwork],
    cases: Sequence[str],
    load: Callable[[str], npt.NDArray[np.float32]],
    *,
    patch_size: Sequence[int],
    about: Mapping[str, Any],
    into: Path,
    mirroring_axes: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the soft labels of training cases: the teachers' mean probabilities. Cases that are there are left out.

    Args:
        teachers: all of the same labels.
        cases: their names.
        load: returns a case's preprocessed image (channels, z, y, x).
        patch_size: of the sliding window, which moves by half of it.
        about: dataset and preprocessing, as :func:`check_soft_labels` compares it.
        into: folder, one file a case.
        mirroring_axes: image axes (0 is z) that all combinations are averaged over.
        progress: called after every case with the number done and the number of all.

    Raises:
        TeacherError: the folder holds soft labels of other teachers or another preprocessing.
    """
    into.mkdir(parents=True, exist_ok=True)
    index = {**about, "teachers": [each.sha256 for each in teachers], "mirroring_axes": list(mirroring_axes)}
    path = into / INDEX_NAME
    if path.is_file():
        check_soft_labels(into, index)
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(index, indent=2), encoding="utf-8")
    for number, name in enumerate(cases, start=1):
        if not (into / f"{name}.npy").is_file():
            apart = [each for each in teachers if each.trained_on is not None and name not in each.trained_on]
            unseen = apart or list(teachers)
            device = next((weights.device for weights in unseen[0].network.parameters()), torch.device("cpu"))
            image = torch.from_numpy(np.ascontiguousarray(load(name), dtype=np.float32)).to(device)
            mean = torch.zeros(())
            for each in unseen:
                mean = mean + probabilities(each.network, image, patch_size, mirroring_axes).cpu() / len(unseen)
            with atomic_output(into / f"{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, compressed(mean))
        if progress is not None:
            progress(number, len(cases))


def check_soft_labels(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Check that soft labels were made as wanted.

    Raises:
        TeacherError: there are none, or they are of other teachers, another dataset or another preprocessing.
    """
    try:
        found = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TeacherError(f"{folder} holds no soft labels ({error}); run 'kdseg-distill teach' first") from error
    for key, value in wanted.items():
        if found.get(key) != value:
            raise TeacherError(
                f"the soft labels in {folder} have {key} {found.get(key)!r}, wanted is {value!r}; remove the "
                "folder and run 'kdseg-distill teach' again"
            )


def describe_soft_labels(settings: SoftLabelSettings) -> dict[str, Any]:
    """Return how a student learnt from soft labels, and whose they were, where that is still known."""
    values = {name: value for name, value in asdict(settings).items() if name not in ("method", "folder")}
    if settings.hard:
        return values
    try:
        index = json.loads((Path(settings.folder) / INDEX_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return values
    return {**values, "teachers": " ".join(index["teachers"]), "mirroring_axes": index["mirroring_axes"]}


@torch.inference_mode()
def probabilities(
    network: nn.Module, image: torch.Tensor, patch_size: Sequence[int], mirroring_axes: Sequence[int] = ()
) -> torch.Tensor:
    """Return a network's probabilities (classes, z, y, x) on a preprocessed image (channels, z, y, x).

    nnU-Net's sliding window: half a patch a step, Gaussian weights, logits averaged over mirrored windows.
    """
    padded, inside = pad_nd_image(image, tuple(patch_size), "constant", {"value": 0}, True)
    steps = compute_steps_for_sliding_window(tuple(padded.shape[1:]), tuple(patch_size), 0.5)
    weights = compute_gaussian(
        tuple(patch_size), sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=image.device
    )
    flips = [
        tuple(axis + 2 for axis in axes)
        for count in range(len(mirroring_axes) + 1)
        for axes in itertools.combinations(mirroring_axes, count)
    ]
    logits = torch.zeros(())
    counts = torch.zeros(padded.shape[1:], device=image.device)
    for corner in itertools.product(*steps):
        window = (slice(None), *(slice(start, start + size) for start, size in zip(corner, patch_size, strict=True)))
        patch = padded[window][None]
        seen = torch.stack([_first(network(patch.flip(flip))).flip(flip)[0].float() for flip in flips]).mean(0)
        if not logits.ndim:
            logits = torch.zeros((seen.shape[0], *padded.shape[1:]), device=image.device)
        logits[window] += seen * weights
        counts[window[1:]] += weights
    inside = (slice(None), *inside[1:])
    return torch.softmax(logits[inside] / counts[inside[1:]], dim=0)


def compressed(values: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return the largest probabilities of (classes, z, y, x) as (2, top, z, y, x): classes, and shares of 255."""
    top = torch.topk(values, min(TOP_CLASSES, values.shape[0]), dim=0)
    return np.stack([top.indices.to(torch.uint8).numpy(), (top.values * _STEPS).round().to(torch.uint8).numpy()])


def expanded(stored: npt.NDArray[np.uint8], classes: int) -> torch.Tensor:
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


class SoftLabelLoader(nnUNetDataLoader):  # type: ignore[misc]  # nnU-Net carries no types
    """nnU-Net's loader of training patches, with soft labels that are augmented along: key ``soft`` of a batch.

    Args:
        folder: the soft labels.
        classes: background included.
        arguments: nnU-Net's.
    """

    def __init__(self, *arguments: Any, folder: Path, classes: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.folder = folder
        self.classes = classes

    def generate_train_batch(self) -> dict[str, Any]:
        """Return ``data`` and ``soft`` (batch, channels, z, y, x), ``target`` of every resolution, and ``keys``."""
        samples, names = [], self.get_indices()
        with torch.no_grad():
            for position, name in enumerate(names):
                image, labels, _, properties = self._data.load_case(name)
                corner, end = self.get_bbox(
                    image.shape[1:], self.get_do_oversample(position), properties["class_locations"]
                )
                box = [list(sides) for sides in zip(corner, end, strict=True)]
                soft = np.load(self.folder / f"{name}.npy", mmap_mode="r")
                if soft.shape[2:] != image.shape[1:]:
                    raise TeacherError(
                        f"the soft labels of {name} have {soft.shape[2:]} voxels and its preprocessed image "
                        f"{image.shape[1:]}; run 'kdseg-distill teach' again"
                    )
                planes = soft.reshape(-1, *soft.shape[2:])
                cropped = crop_and_pad_nd(planes, box, 0).reshape((2, -1, *self.patch_size))
                samples.append(
                    self.transforms(
                        image=torch.from_numpy(crop_and_pad_nd(image, box, 0)).float(),
                        segmentation=torch.from_numpy(crop_and_pad_nd(labels, box, -1, cast_cropped_to=np.int16)),
                        regression_target=expanded(cropped, self.classes),
                    )
                )
        targets = [sample["segmentation"] for sample in samples]
        several = isinstance(targets[0], list)
        return {
            "data": torch.stack([sample["image"] for sample in samples]).float(),
            "target": [torch.stack(level) for level in zip(*targets, strict=True)] if several else torch.stack(targets),
            # interpolation and what lies outside the image leave sums other than 1
            "soft": torch.stack([normalized(sample["regression_target"].clamp(min=0)) for sample in samples]),
            "keys": names,
        }


def _first(output: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]

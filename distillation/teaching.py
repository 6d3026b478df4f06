"""Teachers label the training cases: those of a recipe, their windows, and the mean of their probabilities."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import nn

from distillation.dataset import check_grids
from distillation.pack_weights import load_pack_weights
from distillation.plans import resolve_configuration, student_plans
from distillation.soft_labels import INDEX_NAME, check_soft_labels, compressed
from distillation.splits import SPLITS_NAME, read_splits
from distillation.students import soft_label_folder, teaching_axes
from distillation.teacher import build_network, load_teacher_fold
from distillation.torch_tuning import keep_channels_last
from distillation.training_settings import MINIMUM_WIDTH, TrainingSettings
from KDSegmentatorLib.errors import TeacherError
from KDSegmentatorLib.io.files import atomic_output, write_json
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.pack import open_pack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from distillation.prepare import PreparedDataset
    from distillation.recipe import Recipe
    from distillation.students import TeacherSource


def write_soft_labels(
    recipe: Recipe,
    prepared: PreparedDataset,
    teacher: TeacherSource,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the soft labels of all training cases, or those that are missing, and return their folder.

    Args:
        recipe: its ``teaching`` names the networks; without any, the teacher labels.
        prepared: the dataset.
        teacher: the recipe's own.
        device: ``cpu`` or ``cuda``.
        progress: called after every case with the number done and the number of all.

    Raises:
        TeacherError: a network is missing, damaged or does not fit, or the folder holds soft labels of others.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    configuration = resolve_configuration(prepared.plans, recipe.dataset.configuration)
    data = prepared.folder / configuration["data_identifier"]
    dataset = infer_dataset_class(str(data))(str(data))
    into = soft_label_folder(prepared, recipe.dataset.configuration)

    def load(name: str) -> npt.NDArray[np.float32]:
        return np.asarray(dataset.load_case(name)[0][:], dtype=np.float32)

    teach(
        _networks(recipe, prepared, teacher, torch.device(device)),
        read_splits(prepared.folder / SPLITS_NAME)[recipe.dataset.fold]["train"],
        load,
        patch_size=configuration["patch_size"],
        about=soft_labels_about(recipe, prepared),
        into=into,
        mirroring_axes=teaching_axes(recipe),
        progress=progress,
    )
    return into


def soft_labels_about(recipe: Recipe, prepared: PreparedDataset) -> dict[str, str]:
    """Return the dataset and the preprocessing that soft labels belong to, as their index has them."""
    identifier = resolve_configuration(prepared.plans, recipe.dataset.configuration)["data_identifier"]
    return {"dataset": recipe.dataset.name, "data_identifier": identifier}


def _networks(
    recipe: Recipe, prepared: PreparedDataset, teacher: TeacherSource, device: torch.device
) -> list[TeachingNetwork]:
    found = []
    splits = read_splits(prepared.folder / SPLITS_NAME)
    folders = [Path(each) for each in recipe.teaching.networks]
    for folder in folders or [teacher.folder]:
        if (folder / MANIFEST_NAME).is_file():
            found.append(_from_pack(folder, recipe, prepared))
            continue
        options: dict[str, Any] = {
            "dataset": _dataset_json(prepared),
            "configuration": recipe.dataset.configuration,
        }
        for fold in recipe.teacher_folds():
            model = load_teacher_fold(folder, fold, recipe.teacher.checkpoint, **options)
            same = model.plans.get("dataset_name") == recipe.dataset.name and fold < len(splits)
            seen = frozenset(splits[fold]["train"]) if same else None
            found.append(TeachingNetwork(network=model.network, sha256=model.sha256, trained_on=seen))
    for each in found:
        network: Any = each.network.eval().to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        network.decoder.deep_supervision = False
        if device.type == "cpu":
            keep_channels_last(network)
    return found


def _from_pack(folder: Path, recipe: Recipe, prepared: PreparedDataset) -> TeachingNetwork:
    """Return a pack's network; which of the cases it was trained on, packs do not say."""
    pack = open_pack(folder)
    manifest = pack.manifest
    labels = [(label.value, label.name) for label in manifest.labels]
    if labels != [(label.value, label.name) for label in recipe.pack.labels]:
        names = ", ".join(name for _, name in labels)
        raise TeacherError(f"{folder} has other labels than the recipe: {names}; take a pack of this task")
    alpha = manifest.network.alpha
    minimum = next((each.minimum_width for each in recipe.students if each.size == manifest.size), MINIMUM_WIDTH)
    settings = TrainingSettings(epochs=1, minimum_width=minimum)
    plans = student_plans(prepared.plans, recipe.dataset.configuration, alpha=alpha, name="teaching", settings=settings)
    configuration = resolve_configuration(plans, recipe.dataset.configuration)
    axes = (check_grids(prepared.raw), tuple(prepared.plans["transpose_forward"]))
    if axes != (manifest.preprocessing.axis_codes, tuple(manifest.preprocessing.transpose_forward)):
        raise TeacherError(
            f"{folder} was trained on images in the axis order {manifest.preprocessing.axis_codes}, the dataset is in "
            f"{axes[0]}: left could be taken for right; take a pack of the same order"
        )
    if not np.allclose(manifest.preprocessing.spacing, configuration["spacing"]):
        raise TeacherError(
            f"{folder} was trained at {list(manifest.preprocessing.spacing)} mm and the dataset is prepared at "
            f"{configuration['spacing']} mm; take a pack of the same spacing"
        )
    dataset = _dataset_json(prepared)
    network = build_network(
        configuration,
        channels=len(dataset["channel_names"]),
        labels=len(dataset["labels"]),
        deep_supervision=True,
    )
    load_pack_weights(network, pack)
    return TeachingNetwork(network=network, sha256=manifest.provenance.checkpoint_sha256)


def _dataset_json(prepared: PreparedDataset) -> dict[str, Any]:
    import json

    content: dict[str, Any] = json.loads((prepared.folder / "dataset.json").read_text(encoding="utf-8"))
    return content


@dataclass(frozen=True, kw_only=True)
class TeachingNetwork:
    """A network that labels training cases.

    Attributes:
        network: gives logits (batch, classes, z, y, x), or a list with these first; in evaluation mode.
        sha256: of its checkpoint; of a pack's, the one that it was exported from.
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
    write_json(path, index)
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


def _first(output: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]

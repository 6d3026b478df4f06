"""Whose probabilities a recipe's soft labels are: its teacher's, or those of packs and nnU-Net model folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distillation.dataset import check_grids
from distillation.pack_weights import load_pack_weights
from distillation.plans import resolve_configuration, student_plans
from distillation.settings import MINIMUM_WIDTH, TrainingSettings
from distillation.soft_labels import TeachingNetwork, teach
from distillation.splits import SPLITS_NAME, read_splits
from distillation.students import soft_label_folder
from distillation.teacher import build_network, load_teacher_fold
from distillation.torch_tuning import keep_channels_last
from KDSegmentatorLib.errors import TeacherError
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.pack import open_pack

if TYPE_CHECKING:
    from collections.abc import Callable

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
        about={"dataset": recipe.dataset.name, "data_identifier": configuration["data_identifier"]},
        into=into,
        mirroring_axes=recipe.training.mirroring_axes if recipe.teaching.mirroring else (),
        progress=progress,
    )
    return into


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
    return TeachingNetwork(network=network, sha256=pack.manifest_sha256)


def _dataset_json(prepared: PreparedDataset) -> dict[str, Any]:
    import json

    content: dict[str, Any] = json.loads((prepared.folder / "dataset.json").read_text(encoding="utf-8"))
    return content

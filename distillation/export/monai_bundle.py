"""Trained folder to MONAI bundle: what ``python -m monai.bundle run`` segments a folder of images with.

The bundle holds weights and configuration, no code of ours. nnU-Net's own predictor does the preprocessing, the windows
and the restoration, because MONAI's transforms resample otherwise: that is what makes the voxels those of stock
``nnUNetv2_predict``. It takes the network from the bundle, where MONAI's own tools find it as ``network_def``.
"""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

from distillation.export.description import STEP_FRACTION, check_labels
from distillation.network_cost import count_parameters
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.files import atomic_folder
from KDSegmentatorLib.packs.names import pack_id

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.recipe import PackRecipe
    from distillation.teacher import ModelFolder

SUFFIX = "-monai"
"""Of the bundle's folder name, so that bundles and packs can lie side by side."""

_PACKAGES = ("nnunetv2", "dynamic_network_architectures", "SimpleITK")


def bundle_folder(task: str, size: str, into: Path) -> Path:
    """Return where the bundle of a task's network of this size is written."""
    return into / f"{pack_id(task, size)}{SUFFIX}"


def export_bundle(model: ModelFolder, *, size: str, axis_codes: str, recipe: PackRecipe, into: Path) -> Path:
    """Write a trained network as a MONAI bundle and return its folder; an earlier one there is replaced.

    Args:
        model: the trained folder.
        size: ``x1`` (the teacher), ``x1/2``, ...
        axis_codes: axis order that the training images are stored in (:func:`distillation.dataset.check_grids`).
        recipe: what the bundle says about itself.
        into: folder for the bundle's folder, ``<task>-<size>-monai``.

    Raises:
        ExportError: the labels do not fit, MONAI is not installed, or the disk is full or not writable.
    """
    check_labels(recipe.labels, model)
    folder = bundle_folder(recipe.task, size, into)
    text = _readme(size, axis_codes, recipe)
    try:
        with atomic_folder(folder) as temporary:
            for name in ("configs", "models", "docs"):
                (temporary / name).mkdir()
            _write_json(temporary / "configs" / "metadata.json", _metadata(model, size, axis_codes, recipe))
            _write_json(temporary / "configs" / "inference.json", inference_configuration(model))
            _write_json(temporary / "models" / "dataset.json", model.dataset)
            shutil.copyfile(model.folder / "plans.json", temporary / "models" / "plans.json")
            torch.save(model.network.state_dict(), temporary / "models" / "model.pt")
            (temporary / "docs" / "README.md").write_text(text, encoding="utf-8", newline="\n")
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise ExportError(f"cannot write the bundle {folder}: {error}; free some space or export elsewhere") from error
    return folder


def inference_configuration(model: ModelFolder) -> dict[str, Any]:
    """Return ``inference.json``: everything from ``--dataset_dir`` (``NAME_0000.nii.gz``) to ``--output_dir``."""
    architecture = model.configuration["architecture"]
    imported = architecture["_kw_requires_import"]
    arguments = {
        name: f"${value}" if name in imported and value is not None else value
        for name, value in architecture["arch_kwargs"].items()
    }
    manager = f"@plans_manager.get_configuration({model.configuration_name!r})"
    return {
        "imports": [
            "$import json",
            "$import pathlib",
            "$import torch",
            "$from nnunetv2.utilities.plans_handling.plans_handler import PlansManager",
        ],
        "bundle_root": ".",
        "dataset_dir": "$str(pathlib.Path(@bundle_root) / 'data')",
        "output_dir": "$str(pathlib.Path(@bundle_root) / 'eval')",
        "device": "cpu",
        "use_mirroring": False,
        "models": "$pathlib.Path(@bundle_root) / 'models'",
        "dataset_json": "$json.loads((@models / 'dataset.json').read_text(encoding='utf-8'))",
        "plans_manager": "$PlansManager(json.loads((@models / 'plans.json').read_text(encoding='utf-8')))",
        "weights": "$torch.load(@models / 'model.pt', map_location='cpu', weights_only=True)",
        "network_def": {
            "_target_": architecture["network_class_name"],
            "input_channels": len(model.dataset["channel_names"]),
            "num_classes": len(model.dataset["labels"]),
            "deep_supervision": False,
            **arguments,
        },
        "network": "$@network_def.to(@device)",
        "predictor": {
            "_target_": "nnunetv2.inference.predict_from_raw_data.nnUNetPredictor",
            "tile_step_size": STEP_FRACTION,
            "use_gaussian": True,
            "use_mirroring": "@use_mirroring",
            "perform_everything_on_device": "$@device != 'cpu'",
            "device": "$torch.device(@device)",
            "allow_tqdm": False,
        },
        "initialize": [
            "$pathlib.Path(@output_dir).mkdir(parents=True, exist_ok=True)",
            f"$@predictor.manual_initialization(@network, @plans_manager, {manager}, [@weights], @dataset_json, "
            f"'nnUNetTrainer', {model.mirroring_axes!r})",
        ],
        "run": ["$@predictor.predict_from_files_sequential(@dataset_dir, @output_dir)"],
    }


def _metadata(model: ModelFolder, size: str, axis_codes: str, recipe: PackRecipe) -> dict[str, Any]:
    """Return ``metadata.json`` as MONAI's schema wants it."""
    try:
        monai_version = metadata.version("monai")
    except metadata.PackageNotFoundError as error:
        raise ExportError(
            "a bundle names the version of MONAI that it is for; install it: pip install monai"
        ) from error
    patch = list(model.configuration["patch_size"])
    names = {"0": "background", **{str(label.value): label.name for label in recipe.labels}}
    image = {
        "type": "image",
        "format": "hounsfield" if recipe.modality == "CT" else "magnitude",
        "modality": recipe.modality,
        "num_channels": 1,
        "spatial_shape": patch,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {"0": "image"},
    }
    prediction = {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(names),
        "spatial_shape": patch,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": names,
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": recipe.version,
        "changelog": {recipe.version: "exported by kdseg-distill"},
        "monai_version": monai_version,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {package: metadata.version(package) for package in _PACKAGES},
        "name": f"{recipe.title}, {size}",
        "task": recipe.title,
        "description": f"{recipe.intended_use} {recipe.limits}",
        "authors": recipe.weights.text,
        "copyright": f"weights: {recipe.weights.license}. {recipe.weights.text}",
        "data_source": recipe.data.text,
        "data_type": model.dataset["file_ending"],
        "intended_use": recipe.intended_use,
        "parameters": count_parameters(model.network),
        "axis_codes": axis_codes,
        "checkpoint_sha256": model.sha256,
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": prediction}},
    }


def _readme(size: str, axis_codes: str, recipe: PackRecipe) -> str:
    labels = "\n".join(f"- {label.value}: {label.name}" for label in recipe.labels)
    return f"""# {recipe.title}, {size}

    python -m monai.bundle run --bundle_root . --config_file configs/inference.json \\
        --dataset_dir IMAGES --output_dir SEGMENTATIONS

segments every `NAME_0000` image in IMAGES. `--device cuda` uses a graphics card, `--use_mirroring True` averages over
mirrored windows (eight times the work). Needs MONAI and nnU-Net v2.

Images have to be stored in the axis order {axis_codes}, as the training images are: nnU-Net takes the voxels as they
lie in the file. In another order left and right may be exchanged.

Labels:

{labels}

## Intended use

{recipe.intended_use}

## Limits

{recipe.limits}

## Licence

Weights: {recipe.weights.license}. {recipe.weights.text}

Data: {recipe.data.license}. {recipe.data.text}
"""


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")

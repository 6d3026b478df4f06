"""Trained folder to pack folder."""

from __future__ import annotations

import hashlib
import io
import secrets
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distillation.dataset import RawDataset, check_grids
from distillation.efficiency import network_cost
from distillation.export.agreement import Agreement, check_agreement
from distillation.export.body import OPSET, Storage, split_network, to_onnx, with_stored_weights
from distillation.export.description import (
    check_labels,
    describe_preprocessing,
    describe_provenance,
    describe_windows,
    checked_alpha,
)
from distillation.export.samples import sample_windows
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.packs.manifest import SCHEMA_VERSION, FileRecord, Manifest, Network
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.reader import write_manifest
from KDSegmentatorLib.packs.rules import pack_id

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.recipe import PackRecipe
    from distillation.teacher import ModelFolder

BODY_NAME = "body.onnx"
HEAD_NAME = "head.npz"
SAMPLE_CASES = 3
"""Real cases on which every export is compared with torch."""


@dataclass(frozen=True, kw_only=True)
class ExportedPack:
    """A written pack and how well it agrees with torch."""

    folder: Path
    agreement: Agreement


def export_pack(
    model: ModelFolder,
    *,
    size: str,
    teacher: ModelFolder | None,
    recipe: PackRecipe,
    dataset: RawDataset,
    into: Path,
    storage: Storage = "float16",
) -> ExportedPack:
    """Export a trained network as a pack; nothing is written unless it gives torch's logits.

    Args:
        model: the trained folder.
        size: ``x1`` (the teacher), ``x1/2``, ...
        teacher: the family's teacher; None if ``model`` is the teacher.
        recipe: what the pack says about itself.
        dataset: the dataset it was trained on: axis order and cases for the comparison are taken from it.
        into: folder that will hold the pack's folder, named by its id; an earlier one of this name is replaced.
        storage: number format of the kernels in the file; computations are in float32 either way.

    Raises:
        ExportError: the network, its plans or its labels do not fit, or the exported logits differ from torch's.
        TrainingError: the dataset's images are stored in several axis orders.
    """
    check_labels(recipe.labels, model)
    alpha = checked_alpha(model, teacher, size)
    preprocessing = describe_preprocessing(model, check_grids(dataset))
    windows = describe_windows(model)
    channels = len(model.dataset["channel_names"])
    split = split_network(model.network)
    stored_body = with_stored_weights(split.body, storage)
    body = to_onnx(stored_body, channels=channels, patch_size=windows.patch_size, storage=storage)
    agreement = check_agreement(
        body,
        stored_body=stored_body,
        split=split,
        network=model.network,
        windows=sample_windows(model, dataset.cases[:SAMPLE_CASES]),
    )
    cost = network_cost(model.configuration, channels=channels, labels=len(model.dataset["labels"]))
    files = {BODY_NAME: body, HEAD_NAME: _npz(weight=split.head_weight, bias=split.head_bias)}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        id=pack_id(recipe.task, size),
        version=recipe.version,
        task=recipe.task,
        title=recipe.title,
        size=size,
        modality=recipe.modality,
        body_part=recipe.body_part,
        labels=recipe.labels,
        preprocessing=preprocessing,
        windows=windows,
        network=Network(
            architecture=model.configuration["architecture"]["network_class_name"].rpartition(".")[2],
            alpha=alpha,
            parameters=cost.parameters,
            flops_per_window=cost.flops,
            features=split.head_weight.shape[1],
            body=BODY_NAME,
            body_precision="float32",
            opset=OPSET,
            head=HEAD_NAME,
        ),
        evaluation=None,
        provenance=describe_provenance(model, teacher),
        data=recipe.data,
        weights=recipe.weights,
        intended_use=recipe.intended_use,
        limits=recipe.limits,
        files={
            name: FileRecord(size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        },
    )
    files[MANIFEST_NAME] = write_manifest(manifest).encode()
    return ExportedPack(folder=_write_folder(into / manifest.id, files), agreement=agreement)


def _npz(**arrays: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """Write a folder so that it appears whole or not at all; an earlier one is replaced.

    Raises:
        ExportError: the disk is full or not writable.
    """
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    previous = temporary.with_name(f"{temporary.name}-previous")
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        if folder.exists():
            folder.replace(previous)
        temporary.replace(folder)
    except OSError as error:
        if previous.exists():
            previous.replace(folder)
        raise ExportError(f"cannot write the pack {folder}: {error}; free some space or export elsewhere") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)
    return folder

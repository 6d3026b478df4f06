"""Networks with random weights: as the folder that stock nnU-Net loads, and as the pack exported from it.

What a network costs does not depend on its weights. Its accuracy means nothing, and so the packs have no accuracy to
check: they name bfloat16 and int8 as if those had passed, and their probe demands nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from distillation.export.description import describe_preprocessing, describe_provenance, describe_windows
from distillation.export.network import INPUT_NAME, OPSET, OUTPUT_NAME, split_network, to_onnx, with_stored_weights
from distillation.export.pack_folder import new_pack_folder
from distillation.export.quantization import to_int8_onnx
from distillation.network_cost import network_cost
from distillation.plans import alpha_of, resolve_configuration, student_plans
from distillation.teacher import ModelFolder, build_network, load_model_folder
from distillation.training_settings import TrainingSettings
from kdbench.families import CONFIGURATION, FamilyPlan, dataset, plans
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.files import atomic_output, write_json
from KDSegmentatorLib.packs.array_files import write_head, write_probe
from KDSegmentatorLib.packs.manifest import (
    SCHEMA_VERSION,
    Code,
    Credit,
    Label,
    Manifest,
    Network,
    Provenance,
    ReducedFormat,
    ReducedPrecision,
    Terminology,
)
from KDSegmentatorLib.packs.manifest_file import write_manifest
from KDSegmentatorLib.packs.names import MANIFEST_NAME, divisor, pack_id
from KDSegmentatorLib.packs.pack import describe_file
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.packs.strict_json import build

AXIS_CODES = "LPS"
"""Axis order of the generated scans: nothing has to be turned round."""

_SEED = 0
_CALIBRATION_WINDOWS = 2
_BODY, _INT8_BODY, _HEAD, _PROBE = "body.onnx", "body.int8.onnx", "head.npz", "probe.npz"
_CHECKPOINT = "checkpoint_final.pth"
_CREDIT = Credit(license="CC0-1.0", text="Generated.")


def make_family_member(family: dict[str, Any], size: str, models: str, packs: str) -> None:
    """Make a network's model folder and its pack.

    Args:
        family: fields of a :class:`kdbench.families.FamilyPlan`.
        size: ``x1``, ``x1/2``, ...
        models: folder of model folders.
        packs: folder of installed packs.

    Raises:
        ExportError: the network does not have the paper's number of parameters, or cannot be exported.
    """
    plan = build(FamilyPlan, family)
    model = _model_folder(plan, size, Path(models) / pack_id(plan.task, size))
    _install_export(PackStore(user_folder=packs), plan, size, model)


def make_pack_with_other_head(source: str, task: str, outputs: int, packs: str) -> None:
    """Make a pack with the bodies of another one and a head for another number of labels.

    Args:
        source: id of the other pack.
        task: of the new pack.
        outputs: labels, background included.
        packs: folder of installed packs.
    """
    store = PackStore(user_folder=packs)
    other = store.get(source)
    before = other.manifest
    head = nn.Conv3d(before.network.features, outputs, 1)
    voxels = int(np.prod(before.windows.patch_size))
    labels = outputs - len(before.labels) - 1
    manifest = replace(
        before,
        id=pack_id(task, before.size),
        task=task,
        labels=_labels(outputs),
        network=replace(
            before.network,
            parameters=before.network.parameters + labels * (before.network.features + 1),
            flops_per_window=before.network.flops_per_window + 2 * labels * before.network.features * voxels,
        ),
    )
    bodies = {name: other.read(name) for name in before.files if name.endswith(".onnx")}
    weight, bias = (tensor.detach().numpy() for tensor in (head.weight.flatten(1), head.bias) if tensor is not None)
    _install(store, manifest, bodies, weight, bias)


def with_patch_size(body: bytes, patch_size: tuple[int, int, int]) -> bytes:
    """Return an exported body that says it takes windows of another size.

    Nothing else in the file depends on the size: so a network can be exported with small windows, in little memory.
    """
    model = onnx.load_from_string(body)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in (INPUT_NAME, OUTPUT_NAME):
            for dimension, length in zip(value.type.tensor_type.shape.dim[2:], patch_size, strict=True):
                dimension.Clear()
                dimension.dim_value = length
    del model.graph.value_info[:]
    return bytes(model.SerializeToString(deterministic=True))


def small_patch(family: FamilyPlan) -> tuple[int, int, int]:
    """Return the smallest window that leaves two voxels along each axis at the network's coarsest resolution."""
    z, y, x = (2 * int(np.prod([stride[axis] for stride in family.strides])) for axis in range(3))
    return z, y, x


def _model_folder(plan: FamilyPlan, size: str, folder: Path) -> ModelFolder:
    """Return a model folder as nnU-Net's training leaves it, made if it is not there."""
    checkpoint = folder / "fold_0" / _CHECKPOINT
    if not checkpoint.is_file():
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        scaled = student_plans(
            plans(plan), CONFIGURATION, alpha=alpha_of(size), name=f"generated {size}", settings=_no_training()
        )
        write_json(folder / "plans.json", scaled)
        write_json(folder / "dataset.json", dataset(plan))
        content = {
            "network_weights": _random_network(plan, size, resolve_configuration(scaled, CONFIGURATION)).state_dict(),
            "init_args": {"configuration": CONFIGURATION},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        with atomic_output(checkpoint) as unfinished:  # last: a folder with a checkpoint is complete
            torch.save(content, unfinished)
    return load_model_folder(folder, 0)


def _random_network(plan: FamilyPlan, size: str, configuration: dict[str, Any]) -> nn.Module:
    """Return a network with random weights.

    Raises:
        ExportError: it does not have the number of parameters that the paper prints.
    """
    torch.manual_seed(_SEED)
    network = build_network(configuration, channels=1, labels=plan.outputs, deep_supervision=False)
    expected = plan.parameters.get(size)
    found = sum(parameter.numel() for parameter in network.parameters())
    if expected is not None and found != expected:
        raise ExportError(f"{plan.task} {size} has {found:,} parameters, the paper's has {expected:,}")
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # as after training: no bias and no normalisation is zero
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def _no_training() -> TrainingSettings:
    return TrainingSettings(
        epochs=1, iterations_per_epoch=1, validation_iterations=1, batch_size=2, initial_learning_rate=0.01, seed=_SEED
    )


def _install_export(store: PackStore, plan: FamilyPlan, size: str, model: ModelFolder) -> None:
    split = split_network(model.network)
    patch = small_patch(plan)
    random = np.random.default_rng(_SEED)
    windows = [random.normal(size=(1, 1, *patch)).astype(np.float32) for _ in range(_CALIBRATION_WINDOWS)]
    bodies = {
        _BODY: to_onnx(with_stored_weights(split.body, "float16"), channels=1, patch_size=patch, storage="float16"),
        _INT8_BODY: to_int8_onnx(split.body, channels=1, patch_size=patch, windows=windows),
    }
    bodies = {name: with_patch_size(body, plan.patch_size) for name, body in bodies.items()}
    cost = network_cost(model.configuration, channels=1, labels=plan.outputs)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        id=pack_id(plan.task, size),
        version="1.0.0",
        task=plan.task,
        title=plan.title,
        size=size,
        modality=plan.modality,
        body_part="BRAIN" if plan.modality == "MR" else "ABDOMEN",
        labels=_labels(plan.outputs),
        preprocessing=describe_preprocessing(model, AXIS_CODES),
        windows=describe_windows(model),
        network=Network(
            architecture="ResidualEncoderUNet",
            alpha=1 / divisor(size),
            parameters=cost.parameters,
            flops_per_window=cost.flops,
            features=split.head_weight.shape[1],
            body=_BODY,
            opset=OPSET,
            head=_HEAD,
            probe=_PROBE,
            reduced_precisions=(
                _unchecked("bfloat16", _BODY),
                _unchecked("int8", _INT8_BODY),
            ),
        ),
        evaluation=None,
        provenance=_provenance(model, size),
        data=_CREDIT,
        weights=_CREDIT,
        intended_use="Measuring what networks of this shape cost.",
        limits="The weights are random: the labels mean nothing.",
        files={},
    )
    _install(store, manifest, bodies, split.head_weight, split.head_bias)


def _install(
    store: PackStore,
    manifest: Manifest,
    bodies: dict[str, bytes],
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
) -> None:
    patch = manifest.windows.patch_size
    window = np.random.default_rng(_SEED).normal(size=patch).astype(np.float32)
    with TemporaryDirectory(prefix="kdbench-") as parent:
        target = Path(parent) / manifest.id
        with new_pack_folder(target) as folder:
            for name, body in bodies.items():
                (folder / name).write_bytes(body)
            write_head(folder / _HEAD, weight, bias)
            write_probe(folder / _PROBE, window, np.zeros(patch, dtype=np.uint8))
            files = {name: describe_file(folder / name) for name in (*bodies, _HEAD, _PROBE)}
            text = write_manifest(replace(manifest, files=files))
            (folder / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="\n")
        store.install(target)


def _unchecked(precision: ReducedFormat, body: str) -> ReducedPrecision:
    """Return the entry of a number format that nothing is asked of: random weights have no accuracy to lose."""
    return ReducedPrecision(
        precision=precision, body=body, mean_dice_loss=0.0, largest_dice_loss=0.0, cases=1, probe_agreement=0.0
    )


def _provenance(model: ModelFolder, size: str) -> Provenance:
    described = describe_provenance(model, None)
    return replace(described, method="teacher" if size == "x1" else "plain", iterations=0)


def _labels(outputs: int) -> tuple[Label, ...]:
    structure = Terminology(
        category=Code(scheme="SCT", value="123037004", meaning="Anatomical Structure"),
        type=Code(scheme="SCT", value="91723000", meaning="Anatomical structure"),
    )
    return tuple(
        Label(
            value=value,
            name=f"structure {value}",
            color=(40 * value % 256, 90 * value % 256, 200 * value % 256),
            terminology=structure,
        )
        for value in range(1, outputs)
    )

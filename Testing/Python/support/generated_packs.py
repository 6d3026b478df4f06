"""Small real packs for tests: a few convolutions as ONNX, a head, and a complete manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from KDSegmentatorLib.packs.manifest import (
    SCHEMA_VERSION,
    Credit,
    Manifest,
    Network,
    Normalization,
    Preprocessing,
    Provenance,
    Resampling,
    Windows,
)
from KDSegmentatorLib.packs.pack import StudentPack, open_pack
from support.labels import label
from support.pack_files import write_pack_files

BODY, HEAD = "body.onnx", "head.npz"
FEATURES = 4


def convolution_body(features: int = FEATURES, seed: int = 0, repeats: int = 1) -> bytes:
    """Return a network of random 3x3x3 convolutions with LeakyReLU; ``repeats`` makes it slower."""
    random = np.random.default_rng(seed)
    nodes, weights, channels, previous = [], [], 1, "input"
    for layer in range(repeats):
        kernel = (random.normal(size=(features, channels, 3, 3, 3)) / np.sqrt(27 * channels)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"kernel{layer}"))
        nodes.append(helper.make_node("Conv", [previous, f"kernel{layer}"], [f"conv{layer}"], pads=[1] * 6))
        previous, channels = f"conv{layer}", features
    nodes.append(helper.make_node("LeakyRelu", [previous], ["features"], alpha=0.2))
    size = ["n", None, "z", "y", "x"]
    graph = helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [*size[:1], 1, *size[2:]])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [*size[:1], features, *size[2:]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    body: bytes = model.SerializeToString()
    return body


def manifest(labels: int | Sequence[str] = 3, **changes: Any) -> Manifest:
    """Return a complete manifest for so many structures, or for those of these names; its files are not filled in."""
    names = [f"structure {value}" for value in range(1, labels + 1)] if isinstance(labels, int) else labels
    base = Manifest(
        schema_version=SCHEMA_VERSION,
        id="generated-x1_4",
        version="1.0.0",
        task="generated",
        title="Generated test pack",
        size="x1/4",
        modality="MR",
        body_part="head",
        labels=tuple(
            label(value, name, (40 * value % 256, 90 * value % 256, 200 - 20 * value % 200))
            for value, name in enumerate(names, 1)
        ),
        preprocessing=Preprocessing(
            axis_codes="RAS",
            transpose_forward=(0, 1, 2),
            spacing=(1.0, 1.0, 1.0),
            normalization=Normalization(scheme="ZScore"),
            image_resampling=Resampling(order=3, order_z=0),
            logits_resampling=Resampling(order=1, order_z=0),
        ),
        windows=Windows(patch_size=(16, 16, 16), step_fraction=0.5, mirroring_axes=(0, 1, 2)),
        network=Network(
            architecture="convolutions",
            alpha=0.25,
            parameters=108,
            flops_per_window=900_000,
            features=FEATURES,
            body=BODY,
            opset=17,
            head=HEAD,
            reduced_precisions=(),
        ),
        evaluation=None,
        provenance=Provenance(
            method="plain",
            checkpoint_sha256="0" * 64,
            teacher_sha256=None,
            temperature=None,
            weight=None,
            seed=0,
            iterations=0,
            created="2026-11-23",
            versions={},
        ),
        data=Credit(license="CC0-1.0", text="generated"),
        weights=Credit(license="CC0-1.0", text="generated"),
        intended_use="Tests",
        limits="None",
        files={},
    )
    return replace(base, **changes)


_MANIFEST = manifest()


def write_pack(
    folder: Path,
    *,
    manifest: Manifest | None = None,
    body: bytes | None = None,
    weight: np.ndarray[Any, Any] | None = None,
    bias: np.ndarray[Any, Any] | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> StudentPack:
    """Write a pack and open it; the manifest's file records are filled in, those of ``extra`` files too."""
    manifest = _MANIFEST if manifest is None else manifest
    random = np.random.default_rng(1)
    rows = len(manifest.labels) + 1
    write_pack_files(
        folder,
        manifest,
        body=convolution_body(manifest.network.features) if body is None else body,
        weight=random.normal(size=(rows, manifest.network.features)).astype(np.float32) if weight is None else weight,
        bias=np.zeros(rows, np.float32) if bias is None else bias,
        extra=extra,
    )
    return open_pack(folder)

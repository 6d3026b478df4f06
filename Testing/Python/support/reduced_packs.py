"""Small packs with a probe and networks in reduced precision, right or wrong, and devices that claim to run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from KDSegmentatorLib.engines import candidates
from KDSegmentatorLib.engines.head import label_values
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.packs.array_files import as_stored, write_probe
from KDSegmentatorLib.packs.manifest import Manifest, ReducedFormat, ReducedPrecision
from KDSegmentatorLib.packs.pack import Head, StudentPack
from support.generated_packs import FEATURES, convolution_body, manifest, write_pack

PROBE = "probe.npz"
RIGHT: bytes = convolution_body()
WRONG: bytes = convolution_body(seed=7)
"""Computes, but something else: what a faulty kernel would look like."""

REDUCED: Mapping[ReducedFormat, bytes] = MappingProxyType({"int8": RIGHT, "bfloat16": RIGHT})


def not_a_number_body() -> bytes:
    """Return a network whose weights are not numbers, as its output is then."""
    model = onnx.load_from_string(RIGHT)
    (kernel,) = model.graph.initializer
    kernel.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(kernel), np.nan), kernel.name))
    body: bytes = model.SerializeToString()
    return body


def write_reduced_pack(
    folder: Path,
    bodies: Mapping[ReducedFormat, bytes] = REDUCED,
    *,
    body: bytes = RIGHT,
    base: Manifest | None = None,
    agreement: float = 1.0,
) -> StudentPack:
    """Write a pack whose probe has the labels of the right network.

    Args:
        folder: of the pack.
        bodies: precision to its network.
        body: the network in float32.
        base: manifest to start from; None for that of a generated pack.
        agreement: what the exporting machine found, for each precision.
    """
    base = manifest() if base is None else base
    random = np.random.default_rng(1)
    rows = len(base.labels) + 1
    head = Head(random.normal(size=(rows, FEATURES)).astype(np.float32), np.zeros(rows, np.float32))
    window = random.normal(size=base.windows.patch_size).astype(np.float32)
    labels = label_values(head, OnnxRuntimeEngine(RIGHT).run(as_stored(window), lambda: False)[0])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROBE).unlink(missing_ok=True)
    write_probe(folder / PROBE, window, labels)
    reduced = tuple(
        ReducedPrecision(
            precision=precision,
            body=f"{precision}.onnx",
            mean_dice_loss=0.0,
            largest_dice_loss=0.0,
            cases=4,
            probe_agreement=agreement,
        )
        for precision in bodies
    )
    return write_pack(
        folder,
        manifest=replace(base, network=replace(base.network, probe=PROBE, reduced_precisions=reduced)),
        body=body,
        weight=head.weight,
        bias=head.bias,
        extra={PROBE: (folder / PROBE).read_bytes(), **{f"{name}.onnx": content for name, content in bodies.items()}},
    )


def claim_openvino_abilities(monkeypatch: pytest.MonkeyPatch, **devices: set[str]) -> None:
    """Let OpenVINO's devices be able to do what is claimed; without instructions for it, they compute in float32."""
    claimed = {device: frozenset(abilities) for device, abilities in devices.items()}
    monkeypatch.setattr(candidates, "openvino_devices", lambda: claimed)

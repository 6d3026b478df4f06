"""Small packs for tests: valid to the last check, made without the onnx package."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.manifest_file import read_manifest
from KDSegmentatorLib.packs.store import PackStore
from support.pack_files import write_pack_files

FEATURES = 4
OPSET = 18

BuildPack = Callable[..., Path]


def document(**changes: Any) -> dict[str, Any]:
    """Return a valid manifest as parsed JSON, with top-level fields replaced."""
    anatomy = {"scheme": "SCT", "value": "123037004", "meaning": "Anatomical structure"}
    hippocampus = {"scheme": "SCT", "value": "5366008", "meaning": "Hippocampus"}
    dice = {"mean": 0.88, "low": 0.86, "high": 0.9}
    return {
        "schema_version": 1,
        "id": "hippocampus-x1_4",
        "version": "1.0.0",
        "task": "hippocampus",
        "title": "Hippocampus, anterior and posterior",
        "size": "x1/4",
        "modality": "MR",
        "body_part": "hippocampus",
        "labels": [
            {
                "value": 1,
                "name": "Anterior",
                "color": [230, 80, 60],
                "terminology": {"category": anatomy, "type": hippocampus},
            },
            {
                "value": 2,
                "name": "Posterior",
                "color": [70, 130, 220],
                "terminology": {"category": anatomy, "type": hippocampus, "region": None},
            },
        ],
        "preprocessing": {
            "axis_codes": "RAS",
            "transpose_forward": [0, 1, 2],
            "spacing": [1, 1.0, 1.0],
            "normalization": {"scheme": "ZScore"},
            "image_resampling": {"order": 3, "order_z": 0, "force_separate_z": None},
            "logits_resampling": {"order": 1, "order_z": 0},
        },
        "windows": {"patch_size": [40, 56, 40], "step_fraction": 0.5, "mirroring_axes": [0, 1, 2]},
        "network": {
            "architecture": "PlainConvUNet",
            "alpha": 0.25,
            "parameters": 1000,
            "flops_per_window": 1000000,
            "features": FEATURES,
            "body": "body.onnx",
            "opset": OPSET,
            "head": "head.npz",
            "reduced_precisions": [],
        },
        "evaluation": {
            "dataset": "MSD Task04 Hippocampus",
            "split": "fold 0",
            "cases": 52,
            "mirroring": False,
            "mean_dice": dice,
            "labels": [{"value": 1, "dice": dice}, {"value": 2, "dice": dice}],
            "teacher_mean_dice": 0.89,
        },
        "provenance": {
            "method": "logit",
            "checkpoint_sha256": "0" * 64,
            "teacher_sha256": "1" * 64,
            "temperature": 2.0,
            "weight": 1,
            "seed": 1,
            "iterations": 3000,
            "created": "2026-11-30",
            "versions": {"torch": "2.14.1"},
        },
        "data": {"license": "CC-BY-SA-4.0", "text": "Medical Segmentation Decathlon"},
        "weights": {"license": "CC-BY-SA-4.0", "text": "KDSegmentator developers"},
        "intended_use": "Research.\nNot a medical device.",
        "limits": "Adults, T1-weighted.",
        "files": {
            "body.onnx": {"size": 1, "sha256": "2" * 64},
            "head.npz": {"size": 1, "sha256": "3" * 64},
        },
        **changes,
    }


def as_text(content: Any) -> str:
    return json.dumps(content)


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def message(number: int, payload: bytes) -> bytes:
    """Return an embedded protobuf message, text or bytes."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def number(field: int, value: int) -> bytes:
    """Return a protobuf varint field."""
    return varint(field << 3) + varint(value)


def opset(version: int = OPSET, domain: bytes = b"") -> bytes:
    return message(8, (message(1, domain) if domain else b"") + number(2, version))


def onnx_model(graph: bytes = b"", *, opsets: bytes | None = None, weights: bytes = b"\x00" * 64) -> bytes:
    """Return the bytes of a model with one initializer; ``graph`` adds fields to its graph."""
    tensor = number(1, len(weights) // 4) + number(2, 1) + message(8, b"weight") + message(9, weights)
    return number(1, 10) + (opset() if opsets is None else opsets) + message(7, message(5, tensor) + graph)


def write_pack(folder: Path, *, body: bytes | None = None, seed: int = 0, **changes: Any) -> Path:
    """Write a pack; the body's weights depend on the seed, top-level fields of the manifest can be replaced."""
    random = np.random.default_rng(seed)
    extra = changes.pop("extra", None)
    manifest = read_manifest(as_text(document(**changes)), "test")
    rows = len(manifest.labels) + 1
    write_pack_files(
        folder,
        manifest,
        body=onnx_model(weights=random.bytes(2000)) if body is None else body,
        weight=random.normal(size=(rows, FEATURES)).astype(np.float32),
        bias=random.normal(size=rows).astype(np.float32),
        extra=extra,
    )
    return folder


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a pack's manifest without any check."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def relist(folder: Path, name: str) -> None:
    """Let the manifest list the present content of a file."""
    content = (folder / name).read_bytes()
    record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(folder, lambda manifest: manifest["files"].update({name: record}))


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """Return this module: test modules cannot import it by name in pytest's importlib mode."""
    return sys.modules[__name__]


@pytest.fixture
def build_pack(tmp_path: Path) -> BuildPack:
    """Return a function that writes a pack into a new folder: see :func:`write_pack`."""
    count = 0

    def build(**changes: Any) -> Path:
        nonlocal count
        count += 1
        return write_pack(tmp_path / "packs to install" / f"pack {count}", **changes)

    return build


@pytest.fixture
def manifest() -> Manifest:
    """Return a valid manifest."""
    return read_manifest(as_text(document()), "test")


@pytest.fixture
def packs(tmp_path: Path) -> PackStore:
    """An empty store."""
    return PackStore(tmp_path / "user ä脑", tmp_path / "shipped")

"""The files of a pack for tests, written without the onnx package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from KDSegmentatorLib.packs.array_files import write_head
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.manifest_file import write_manifest
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.pack import describe_file


def write_pack_files(
    folder: Path,
    manifest: Manifest,
    *,
    body: bytes,
    weight: np.ndarray[Any, Any],
    bias: np.ndarray[Any, Any],
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write a pack's folder; the manifest's file records are filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    network = manifest.network
    (folder / network.head).unlink(missing_ok=True)
    write_head(folder / network.head, weight, bias)
    others = {network.body: body, **(extra or {})}
    for name, content in others.items():
        (folder / name).write_bytes(content)
    files = {name: describe_file(folder / name) for name in (network.head, *others)}
    text = write_manifest(replace(manifest, files=files))
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="\n")

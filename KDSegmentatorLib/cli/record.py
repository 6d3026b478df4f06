"""The record of a run as a file: what an auditor needs to repeat it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.io.files import atomic_output, file_sha256


def write_record(result: Segmentation, scan: Path, reason: str, path: Path, *, region_given: bool) -> None:
    """Write a run's record as JSON (UTF-8): the fields of ``RunRecord``, the input and the labels.

    Args:
        result: of the run.
        scan: the scan's file; its name is written without its folder, and its SHA-256.
        reason: why this engine was taken.
        path: the file.
        region_given: whether the earlier stage of a chain was left out; ``region`` is null then, as for single packs.

    Raises:
        ImageWriteError: the file could not be written; nothing was left behind.
    """
    content = {
        "input": os.fsencode(scan.name).decode("utf-8", errors="backslashreplace"),
        "input_sha256": file_sha256(scan),
        "engine_reason": reason,
        "region_given": region_given,
        "labels": [{"value": label.value, "name": label.name} for label in result.labels],
        **dataclasses.asdict(result.record),
    }
    with atomic_output(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

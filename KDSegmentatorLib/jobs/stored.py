"""Results as files: what a run made, for the process that waits for it and for a batch that is resumed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from KDSegmentatorLib.analysis.statistics import LabelStatistics
from KDSegmentatorLib.errors import JobError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.jobs.events import BatchFile, SizeResult
from KDSegmentatorLib.packs.manifest import FileRecord, Label
from KDSegmentatorLib.packs.rules import RULES
from KDSegmentatorLib.packs.strict_json import FieldError, Rule, build, parse

RESULT_NAME = "result.json"
"""The result's file in the job's folder, written last."""

_RULES = {**RULES, (FileRecord, "size"): Rule(minimum=0)}  # an entropy map may be larger than a file of a pack

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A :class:`~KDSegmentatorLib.jobs.events.SizeResult` whose volumes are in files.

    Attributes:
        size: as asked for.
        labels_file: name of the label map's file.
        entropy_file: name of the entropy map's file, or None.
        labels: what the label map's values mean.
        record: how the result came about.
        statistics: one entry a label.
        engine_reason: why this engine ran.
        size_reason: why this size ran, with ``auto``.
        peak_memory: bytes, or None.
    """

    size: str
    labels_file: str
    entropy_file: str | None
    labels: tuple[Label, ...]
    record: RunRecord
    statistics: tuple[LabelStatistics, ...]
    engine_reason: str
    size_reason: str | None
    peak_memory: int | None


@dataclass(frozen=True, kw_only=True)
class StoredFailure:
    """A size that failed: the error's class and message."""

    size: str
    kind: str
    message: str


@dataclass(frozen=True, kw_only=True)
class StoredSegmentation:
    """Result of a :class:`~KDSegmentatorLib.jobs.request.SegmentRequest`."""

    runs: tuple[StoredRun, ...]
    failures: tuple[StoredFailure, ...]


@dataclass(frozen=True, kw_only=True)
class StoredBatch:
    """Result of a :class:`~KDSegmentatorLib.jobs.request.BatchRequest`."""

    files: tuple[BatchFile, ...]
    table: str


def stored_run(result: SizeResult, labels_file: str, entropy_file: str | None) -> StoredRun:
    """Return what is to be stored of a result, besides its volumes."""
    return StoredRun(
        size=result.size,
        labels_file=labels_file,
        entropy_file=entropy_file,
        labels=result.segmentation.labels,
        record=result.segmentation.record,
        statistics=result.statistics,
        engine_reason=result.engine_reason,
        size_reason=result.size_reason,
        peak_memory=result.peak_memory,
    )


def restored_run(run: StoredRun, read: Callable[[str], Volume]) -> SizeResult:
    """Return a result with its volumes.

    Args:
        run: what was stored.
        read: returns the volume in the file of a name.

    Raises:
        JobError: a volume is not complete.
    """
    segmentation = Segmentation(
        volume=read(run.labels_file),
        labels=run.labels,
        record=run.record,
        entropy=None if run.entropy_file is None else read(run.entropy_file),
    )
    return SizeResult(
        size=run.size,
        segmentation=segmentation,
        statistics=run.statistics,
        engine_reason=run.engine_reason,
        size_reason=run.size_reason,
        peak_memory=run.peak_memory,
    )


def write_stored(value: Any, path: Path) -> None:
    """Write a dataclass as a JSON file that appears whole or not at all.

    Raises:
        ImageWriteError: the file could not be written.
    """
    text = json.dumps(dataclasses.asdict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_output(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_stored(cls: type[T], path: Path) -> T:
    """Return the dataclass in a file.

    Raises:
        JobError: the file is missing or damaged, or not such a result.
    """
    try:
        return build(cls, parse(path.read_text(encoding="utf-8")), _RULES, Rule())
    except (OSError, UnicodeDecodeError, FieldError) as error:
        raise JobError(
            f"the result in {path} is not complete ({error}); start the segmentation again, and check the disk if it "
            "happens once more"
        ) from error

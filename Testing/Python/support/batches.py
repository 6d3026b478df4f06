"""What a batch left in its folders."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from KDSegmentatorLib.jobs import batch
from KDSegmentatorLib.jobs.batch_files import TABLE_NAME
from KDSegmentatorLib.jobs.messages import RESULT_NAME, BatchFinished, BatchRequest
from KDSegmentatorLib.jobs.reporter import Reporter
from KDSegmentatorLib.jobs.run import read_result, write_result

ALL = [
    "a-labels.nii.gz", "a-record.json", "b ü-labels.nii.gz", "b ü-record.json", TABLE_NAME,
]  # fmt: skip


def run_batch(request: BatchRequest, folder: Path, reporter: Reporter, cancel: Callable[[], bool]) -> None:
    """Do a batch as the worker does."""
    write_result(batch.run_batch(request, reporter, cancel), folder / RESULT_NAME)


def never() -> bool:
    return False


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE_NAME).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def states(folder: Path) -> dict[str, str]:
    return {file.input: file.state for file in read_result(BatchFinished, folder / RESULT_NAME).files}

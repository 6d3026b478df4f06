"""What a batch left in its folders."""

from __future__ import annotations

import csv
from pathlib import Path

from KDSegmentatorLib.jobs.batch_files import TABLE_NAME
from KDSegmentatorLib.jobs.stored import RESULT_NAME, StoredBatch, read_stored

ALL = [
    "a-labels.nii.gz", "a-record.json", "b ü-labels.nii.gz", "b ü-record.json", TABLE_NAME,
]  # fmt: skip


def never() -> bool:
    return False


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE_NAME).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def states(folder: Path) -> dict[str, str]:
    return {file.input: file.state for file in read_stored(StoredBatch, folder / RESULT_NAME).files}

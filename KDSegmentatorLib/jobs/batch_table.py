"""The statistics of all files of a batch in one table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.analysis.spreadsheet import as_text
from KDSegmentatorLib.analysis.statistics import statistics_cells, statistics_columns
from KDSegmentatorLib.errors import ImageWriteError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.jobs.stored import StoredRun


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One file of a batch: its run, or why it failed."""

    name: str
    run: StoredRun | None
    message: str = ""


_LONGEST_HEADER = 1000
_FIRST_COLUMNS = ("file", "pack_id", "pack_version")


def check_table(path: Path) -> None:
    """Check that no other file than a batch's table lies where the table shall be.

    Raises:
        ImageWriteError: one does, or it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            header = file.readline(_LONGEST_HEADER)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ImageWriteError(
            f"{path} cannot be read ({error.strerror or error}); check the permissions, or choose another folder for "
            "the results"
        ) from error
    if not header.startswith(",".join(_FIRST_COLUMNS) + ","):
        raise ImageWriteError(
            f"{path} is in the way: no batch wrote it, and it is not overwritten; move or rename it, or choose another "
            "folder for the results"
        )


def write_table(entries: Sequence[TableRow], path: Path, *, intensity_unit: str) -> None:
    """Write one line for every file and label as CSV (UTF-8, comma, one header line); an existing file is replaced.

    A file that failed has one line, with the reason. A warning stands on the lines of its structures; one that is about
    none of the file's structures, but all of them or what an earlier pack found, on every line of the file.

    Args:
        entries: one a file.
        path: the table.
        intensity_unit: ends the names of the intensity columns, ``HU`` for CT.

    Raises:
        ImageWriteError: the file could not be written; nothing was left behind.
    """
    columns = statistics_columns(intensity_unit)
    with atomic_output(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*_FIRST_COLUMNS, *columns, "failure", "warnings"])
        for entry in entries:
            name = as_text(entry.name)
            if entry.run is None:
                table.writerow([name, "", "", *("" for _ in columns), as_text(entry.message), ""])
                continue
            record = entry.run.record
            for row in entry.run.statistics:
                cells = statistics_cells(row)
                warnings = as_text(_warnings(entry.run, row.name))
                table.writerow([name, record.pack_id, record.pack_version, *cells, "", warnings])


def _warnings(run: StoredRun, name: str) -> str:
    """Return the warnings for one structure's line."""
    names = {row.name for row in run.statistics}
    return " ".join(
        warning.sentence
        for warning in run.record.warnings
        if name in warning.labels or warning.pack_id != run.record.pack_id or names.isdisjoint(warning.labels)
    )

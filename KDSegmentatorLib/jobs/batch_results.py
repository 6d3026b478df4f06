"""What a batch leaves in its folder: a record beside every result, to audit and to resume it, and one table of all."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from KDSegmentatorLib.analysis.statistics import LabelStatistics, as_text, statistics_cells, statistics_columns
from KDSegmentatorLib.errors import ImageWriteError, JobError
from KDSegmentatorLib.inference.segmentation import RunRecord
from KDSegmentatorLib.io.files import atomic_output, file_sha256
from KDSegmentatorLib.jobs import bids
from KDSegmentatorLib.jobs.batch_files import BatchPaths
from KDSegmentatorLib.jobs.messages import BatchRequest
from KDSegmentatorLib.jobs.run import SizeResult, read_result
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Label

RECORD_VERSION = 2

PackHashes = tuple[str, str | None]
"""Hashes of the manifests of a pack and of the one that finds its region; None if there is none."""

_LONGEST_HEADER = 1000
_FIRST_COLUMNS = ("file", "pack_id", "pack_version", "size")


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The record of one file's result.

    Attributes:
        record_version: of this format.
        input: the scan's file name.
        input_sha256: its hash.
        task: the family.
        options: what was asked for, without the number of threads, which changes no voxel.
        labels: what the label map's values mean.
        record: how the result came about.
        statistics: one entry a label.
        engine_reason: why this engine ran.
        size_reason: why this size ran, with ``auto``.
        sha256: name of each output file to its hash.
        sources: BIDS URIs of the images; the record is the sidecar of the label map in a BIDS derivative.
    """

    record_version: int
    input: str
    input_sha256: str
    task: str
    options: RunOptions
    labels: tuple[Label, ...]
    record: RunRecord
    statistics: tuple[LabelStatistics, ...]
    engine_reason: str
    size_reason: str | None
    sha256: dict[str, str]
    sources: tuple[str, ...] = msgspec.field(name="Sources", default=())


class TableRow(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a batch: its record, or why it failed."""

    name: str
    record: BatchRecord | None
    message: str = ""


def new_record(
    request: BatchRequest, paths: BatchPaths, input_sha256: str, result: SizeResult, folder: Path
) -> BatchRecord:
    """Return the record of a result.

    Args:
        request: of the batch.
        paths: of the input.
        input_sha256: its hash.
        result: what came out.
        folder: where the output files are now.

    Raises:
        OSError: a file cannot be read.
    """
    names = [paths.labels.name, *([] if result.segmentation.entropy is None else [paths.entropy.name])]
    return BatchRecord(
        record_version=RECORD_VERSION,
        input=paths.scan.name,
        input_sha256=input_sha256,
        task=request.task,
        options=_comparable(request.options),
        labels=result.segmentation.labels,
        record=result.segmentation.record,
        statistics=result.statistics,
        engine_reason=result.engine_reason,
        size_reason=result.size_reason,
        sha256={name: file_sha256(folder / name) for name in names},
        sources=(bids.source_uri(paths.name),) if request.bids else (),
    )


def finished_record(
    request: BatchRequest, paths: BatchPaths, input_sha256: str, packs: Collection[PackHashes]
) -> BatchRecord | None:
    """Return the record of what an earlier batch made of an input, None if this one would make something else.

    Args:
        request: of the batch.
        paths: of the input.
        input_sha256: its hash.
        packs: hashes of the packs that the batch may use.
    """
    expected = [paths.labels, *([paths.entropy] if request.options.entropy else [])]
    try:
        record = read_result(BatchRecord, paths.record)
        if (
            record.record_version == RECORD_VERSION
            and record.input_sha256 == input_sha256
            and record.task == request.task
            and record.options == _comparable(request.options)
            and _hashes(record.record) in packs
            and record.sha256 == {path.name: file_sha256(path) for path in expected}
        ):
            return record
    except (JobError, OSError):
        pass  # no record, or none of ours: the file is segmented
    return None


def existing_results(paths: BatchPaths, *, entropy: bool) -> tuple[Path, ...]:
    """Return the files of an earlier result that lie where a new one shall be, the record last.

    Only what a batch wrote may be replaced: the files whose hashes the record beside them has. Anything else is
    somebody's work, drawn or corrected by hand.

    Args:
        paths: of the input.
        entropy: whether the new result has an entropy map.

    Raises:
        ImageWriteError: a file is in the way that no batch wrote, or that was changed since.
        OSError: a file cannot be read.
    """
    if not any(_occupied(path) for path in (paths.labels, paths.entropy, paths.record)):
        return ()
    record = None
    if _occupied(paths.record):
        try:
            record = read_result(BatchRecord, paths.record)
        except JobError:
            raise ImageWriteError(_in_the_way(paths.record)) from None
    found = []
    for path, wanted in ((paths.labels, True), (paths.entropy, entropy)):
        if not _occupied(path):
            continue
        if record is not None and record.sha256.get(path.name) == file_sha256(path):
            found.append(path)
        elif wanted:
            raise ImageWriteError(_in_the_way(path))
    return (*found, *(() if record is None else (paths.record,)))


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
    if not header.startswith(",".join(_FIRST_COLUMNS[:3]) + ","):
        raise ImageWriteError(_in_the_way(path))


def write_table(rows: Sequence[TableRow], path: Path, *, intensity_unit: str) -> None:
    """Write one line for every file and label as CSV (UTF-8, comma, one header line); an existing file is replaced.

    A file that failed has one line, with the reason. A warning stands on the lines of its structures; one that is about
    none of the file's structures, but all of them or what an earlier pack found, on every line of the file.

    Args:
        rows: one a file.
        path: the table.
        intensity_unit: ends the names of the intensity columns, ``HU`` for CT.

    Raises:
        ImageWriteError: the file could not be written; nothing was left behind.
    """
    columns = statistics_columns(intensity_unit)
    with atomic_output(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*_FIRST_COLUMNS, *columns, "failure", "warnings"])
        for row in rows:
            name = as_text(row.name)
            if row.record is None:
                table.writerow([name, *[""] * (len(_FIRST_COLUMNS) - 1 + len(columns)), as_text(row.message), ""])
                continue
            run = row.record.record
            for label in row.record.statistics:
                warnings = as_text(_warnings(row.record, label.name))
                cells = statistics_cells(label)
                table.writerow([name, run.pack_id, run.pack_version, run.size, *cells, "", warnings])


def _warnings(record: BatchRecord, name: str) -> str:
    """Return the warnings for one structure's line."""
    names = {label.name for label in record.statistics}
    return " ".join(
        warning.sentence
        for warning in record.record.warnings
        if name in warning.labels or warning.pack_id != record.record.pack_id or names.isdisjoint(warning.labels)
    )


def _hashes(record: RunRecord) -> PackHashes:
    return record.pack_sha256, None if record.region is None else record.region.pack_sha256


def _occupied(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _in_the_way(path: Path) -> str:
    return (
        f"{path} is in the way: no batch wrote it, or it was changed since, and it is not overwritten; move or rename "
        "it, or choose another folder for the results"
    )


def _comparable(options: RunOptions) -> RunOptions:
    return msgspec.structs.replace(options, threads=None)

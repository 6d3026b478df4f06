"""How a result of a batch came about, kept beside it: for auditors, and to resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.errors import ImageWriteError, JobError
from KDSegmentatorLib.inference.segmentation import RunRecord
from KDSegmentatorLib.io.files import file_sha256
from KDSegmentatorLib.jobs.batch_files import BatchPaths
from KDSegmentatorLib.jobs.request import BatchRequest, Settings
from KDSegmentatorLib.jobs.stored import StoredRun, read_stored

RECORD_VERSION = 1

PackHashes = tuple[str, str | None]
"""Hashes of the manifests of a pack and of the one that is run before it; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """The record of one file's result.

    Attributes:
        record_version: of this format.
        input: the scan's file name.
        input_sha256: its hash.
        settings: what was asked for, without what changes no voxel (where packs lie, threads).
        run: what came out.
        sha256: name of each output file to its hash.
    """

    record_version: int
    input: str
    input_sha256: str
    settings: Settings
    run: StoredRun
    sha256: dict[str, str]


def new_record(
    request: BatchRequest, paths: BatchPaths, input_sha256: str, run: StoredRun, folder: Path
) -> BatchRecord:
    """Return the record of a result.

    Args:
        request: of the batch.
        paths: of the input.
        input_sha256: its hash.
        run: what came out.
        folder: where the output files are now.

    Raises:
        OSError: a file cannot be read.
    """
    names = [name for name in (run.labels_file, run.entropy_file) if name is not None]
    return BatchRecord(
        record_version=RECORD_VERSION,
        input=paths.scan.name,
        input_sha256=input_sha256,
        settings=_comparable(request.settings),
        run=run,
        sha256={name: file_sha256(folder / name) for name in names},
    )


def finished_run(
    request: BatchRequest, paths: BatchPaths, input_sha256: str, packs: Collection[PackHashes]
) -> StoredRun | None:
    """Return what an earlier batch made of an input, None if there is nothing that this one would make again.

    Args:
        request: of the batch.
        paths: of the input.
        input_sha256: its hash.
        packs: hashes of the packs that the batch may use.
    """
    try:
        record = read_stored(BatchRecord, paths.record)
        run = record.run
        expected = (paths.labels.name, paths.entropy.name if request.settings.entropy else None)
        if (
            record.record_version == RECORD_VERSION
            and record.input_sha256 == input_sha256
            and record.settings == _comparable(request.settings)
            and run.size == request.size
            and _hashes(run.record) in packs
            and (run.labels_file, run.entropy_file) == expected
            and all(
                name is None or record.sha256.get(name) == file_sha256(paths.labels.with_name(name))
                for name in expected
            )
        ):
            return run
    except (JobError, OSError):
        pass  # no record, or none of ours: the file is segmented
    return None


def _hashes(record: RunRecord) -> PackHashes:
    return record.pack_sha256, None if record.region is None else record.region.pack_sha256


def earlier_results(paths: BatchPaths, *, entropy: bool) -> tuple[Path, ...]:
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
            record = read_stored(BatchRecord, paths.record)
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


def _occupied(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _in_the_way(path: Path) -> str:
    return (
        f"{path} is in the way: no batch wrote it, or it was changed since, and it is not overwritten; move or rename "
        "it, or choose another folder for the results"
    )


def _comparable(settings: Settings) -> Settings:
    return dataclasses.replace(settings, user_packs="", shipped_packs="", threads=None)

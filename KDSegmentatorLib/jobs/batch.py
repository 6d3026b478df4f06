"""The worker's part of a batch: many scans, one size for all of them."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from KDSegmentatorLib.analysis.statistics import IMAGE_UNITS
from KDSegmentatorLib.engines.memory_failure import memory_failure
from KDSegmentatorLib.errors import CancelledError, ImageReadError, ImageWriteError, KDSegmentatorError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.progress import CancelCheck, Steps
from KDSegmentatorLib.io.files import is_disk_full, replace
from KDSegmentatorLib.io.images import shadowing_reason, write_volume
from KDSegmentatorLib.io.nifti import LabelNames
from KDSegmentatorLib.jobs import bids
from KDSegmentatorLib.jobs.batch_files import TABLE_NAME, BatchPaths, batch_paths
from KDSegmentatorLib.jobs.batch_results import (
    BatchRecord,
    TableRow,
    check_table,
    existing_results,
    finished_record,
    new_record,
    write_table,
)
from KDSegmentatorLib.jobs.folder import long_path, owned_folder
from KDSegmentatorLib.jobs.messages import BatchFile, BatchFinished, BatchRequest, RunState
from KDSegmentatorLib.jobs.reporter import Reporter, RunReporter
from KDSegmentatorLib.jobs.run import SizeResult, make_segmenter, pack_store, segment_with, write_result
from KDSegmentatorLib.packs.catalogue import select
from KDSegmentatorLib.scan import Scan, read_scan, source_sha256
from KDSegmentatorLib.segmenter import Segmenter

_log = logging.getLogger(__name__)


def run_batch(request: BatchRequest, reporter: Reporter, cancel: CancelCheck) -> BatchFinished:
    """Segment all files, all with one size, then write the table of their statistics.

    A file that fails does not stop the others. The results of a file appear when all of them are complete. What no
    batch wrote is never overwritten: a file whose results would do that fails.

    Args:
        request: what to do.
        reporter: told of every file and its progress.
        cancel: asked at every step.

    Raises:
        CancelledError: ``cancel`` returned True; the files that were finished stay.
        ImageWriteError: the disk is full, the output folder cannot be made, or another table is in the way; the files
            that were finished stay.
        KDSegmentatorError: the pack or its engine cannot be used.
    """
    paths = batch_paths(request)
    output = long_path(Path(request.output_folder))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageWriteError(
            f"the folder {output} cannot be made ({error.strerror}); choose another folder for the results"
        ) from error
    table = output / TABLE_NAME
    check_table(table)
    with owned_folder(output) as staging:
        batch = _Batch(request, staging, cancel)
        ends = [batch.process(item, reporter.run(n, len(paths), item.name)) for n, item in enumerate(paths)]
    write_table([end.row for end in ends], table, intensity_unit=batch.intensity_unit)
    if request.bids:
        bids.write_description(Path(request.input_folder), output)
        bids.write_label_table(batch.labels, request.task, output)
    return BatchFinished(files=tuple(end.file for end in ends), table=str(table))


@dataclass(frozen=True, kw_only=True)
class _FileEnd:
    """What became of a file, for the result and for the table."""

    file: BatchFile
    row: TableRow


class _Batch:
    """What the files of a batch share: the packs, and the engine once a file needs it.

    Args:
        request: what to do.
        staging: folder for unfinished files, beside the results.
        cancel: asked at every step.

    Raises:
        PackError: there is no such pack, or it is damaged.
        ManifestError: its manifest is not valid.
    """

    def __init__(self, request: BatchRequest, staging: Path, cancel: CancelCheck) -> None:
        self._request = request
        self._staging = staging
        self._cancel = cancel
        self._segmenter: Segmenter | None = None
        self._options = request.options
        selection = select(pack_store(request), request.task, request.options.size)
        packs = selection.packs.packs
        region_packs = {} if request.options.region else selection.region_packs
        self._hashes = {
            (pack.manifest_sha256, None if earlier is None else earlier.manifest_sha256)
            for pack in packs
            for earlier in [region_packs.get(pack.manifest.id)]
        }
        self.labels = packs[0].manifest.labels
        self.intensity_unit = "HU" if packs[0].manifest.modality == "CT" else IMAGE_UNITS

    def process(self, paths: BatchPaths, reporter: RunReporter) -> _FileEnd:
        """Segment a file unless that is done already, and report what became of it.

        Raises:
            CancelledError: the batch was cancelled.
            KDSegmentatorError: something that would happen to all other files, too.
        """
        reporter.changed("running")
        loading = Steps("load", 2, reporter.progress, self._cancel)
        loading.check()
        try:
            input_sha256 = _input_sha256(paths)
            if self._request.resume:
                finished = finished_record(self._request, paths, input_sha256, self._hashes)
                if finished is not None and self._options.size in (self._request.options.size, finished.record.size):
                    self._settle(finished.record.size)
                    return _succeeded(paths, finished, reporter, skipped=True)
            self._existing(paths)
            scan = read_scan(paths.scan, check=loading.check)
        except CancelledError:
            raise
        except KDSegmentatorError as error:
            return _failed(paths, error, reporter)
        loading.advance()
        if self._segmenter is None:
            self._segmenter = make_segmenter(self._request, self._options, self._cancel)
        try:
            record = self._segmented(self._segmenter, paths, scan, input_sha256, loading, reporter)
        except CancelledError:
            raise
        except KDSegmentatorError as error:
            if isinstance(error, ImageWriteError) and self._disk_is_full(error, scan.volume):
                raise
            return _failed(paths, error, reporter)
        except MemoryError:
            return _failed(paths, memory_failure(f"to segment {paths.name}"), reporter)
        return _succeeded(paths, record, reporter, skipped=False)

    def _segmented(
        self,
        segmenter: Segmenter,
        paths: BatchPaths,
        scan: Scan,
        input_sha256: str,
        loading: Steps,
        reporter: RunReporter,
    ) -> BatchRecord:
        """Segment a scan and put the results into place."""
        result = segment_with(segmenter, scan, loading, reporter.progress, self._cancel)
        self._settle(result.segmentation.record.size)
        writing = Steps("write", 3, reporter.progress, self._cancel)
        try:
            return self._published(result, paths, input_sha256, writing)
        except OSError as error:
            raise ImageWriteError(
                f"the results of {paths.name} cannot be written ({error.strerror or error}); check the disk, and close "
                "them if they are open in another program"
            ) from error

    def _settle(self, size: str) -> None:
        """Take the size of the first result for all: networks of several sizes in one table cannot be compared."""
        self._options = msgspec.structs.replace(self._options, size=size)

    def _published(self, result: SizeResult, paths: BatchPaths, input_sha256: str, writing: Steps) -> BatchRecord:
        """Write all files beside their destination, then move them there.

        Raises:
            ImageWriteError: a file could not be written, or one is in the way that no batch wrote.
            OSError: a file could not be moved into place.
        """
        segmentation = result.segmentation
        names = {label.value: (label.name, label.color) for label in segmentation.labels}
        self._write(segmentation.volume, paths.labels, paths.scan, names)
        writing.advance()
        if segmentation.entropy is not None:
            self._write(segmentation.entropy, paths.entropy, paths.scan)
        writing.advance()
        record = new_record(self._request, paths, input_sha256, result, self._staging)
        write_result(record, self._staging / paths.record.name)
        paths.record.parent.mkdir(parents=True, exist_ok=True)
        new = [paths.record, paths.labels, *([] if segmentation.entropy is None else [paths.entropy])]
        self._exchange(self._existing(paths), new)
        writing.advance()
        return record

    def _existing(self, paths: BatchPaths) -> tuple[Path, ...]:
        """Return the files that a new result replaces; see :func:`existing_results`."""
        try:
            return existing_results(paths, entropy=self._request.options.entropy)
        except OSError as error:
            raise ImageWriteError(
                f"the results of {paths.name} cannot be written: what lies in their place cannot be read "
                f"({error.strerror or error}); check the disk and the permissions"
            ) from error

    def _exchange(self, earlier: Sequence[Path], new: Sequence[Path]) -> None:
        """Move the earlier files away and the new ones from the staging folder into place: all of them, or none.

        The old record goes last and the new one comes first: whenever the process may end, each file in place has a
        record that knows it, so that the next batch may replace it. Whether a result is complete tell the hashes.

        Raises:
            OSError: a file could not be moved; the earlier ones are in place again.
        """
        aside = [self._staging / f"earlier-{path.name}" for path in earlier]
        moves = [*zip(earlier, aside, strict=True), *((self._staging / path.name, path) for path in new)]
        moved: list[tuple[Path, Path]] = []
        try:
            for source, target in moves:
                replace(source, target)
                moved.append((source, target))
        except OSError:
            for source, target in reversed(moved):
                with contextlib.suppress(OSError):
                    replace(target, source)
            raise
        for path in aside:
            path.unlink(missing_ok=True)

    def _write(self, volume: Volume, target: Path, scan: Path, labels: LabelNames | None = None) -> None:
        unfinished = self._staging / target.name
        if (reason := shadowing_reason(target)) is not None:
            raise ImageWriteError(f"cannot write {target}: {reason}")
        try:
            write_volume(volume, unfinished, like=scan, labels=labels)
        except ImageWriteError as error:  # name the file that the user will look for
            raise ImageWriteError(str(error).replace(str(unfinished), str(target))) from error

    def _disk_is_full(self, error: ImageWriteError, volume: Volume) -> bool:
        """Return whether nothing more can be written; ITK does not say so itself."""
        return is_disk_full(error) or shutil.disk_usage(self._staging).free < volume.voxels.size


def _input_sha256(paths: BatchPaths) -> str:
    try:
        return source_sha256(paths.scan)
    except OSError as error:
        raise ImageReadError(
            f"cannot read {paths.scan}: {error.strerror or error}; check the disk or the network"
        ) from error


def _succeeded(paths: BatchPaths, record: BatchRecord, reporter: RunReporter, *, skipped: bool) -> _FileEnd:
    state: RunState = "skipped" if skipped else "done"
    message = " ".join(warning.sentence for warning in record.record.warnings)
    reporter.changed(state, message)
    file = BatchFile(
        input=paths.name,
        state=state,
        message=message,
        labels=str(paths.labels),
        entropy=str(paths.entropy) if paths.entropy.name in record.sha256 else None,
    )
    return _FileEnd(file=file, row=TableRow(name=paths.name, record=record))


def _failed(paths: BatchPaths, error: KDSegmentatorError, reporter: RunReporter) -> _FileEnd:
    message = str(error)
    _log.warning("%s: %s", paths.name, message)
    reporter.changed("failed", message)
    file = BatchFile(input=paths.name, state="failed", message=message, labels=None, entropy=None)
    return _FileEnd(file=file, row=TableRow(name=paths.name, record=None, message=message))

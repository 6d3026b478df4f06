"""The worker's part of a segmentation: one volume, one size or several."""

from __future__ import annotations

import logging
from pathlib import Path

from KDSegmentatorLib.engines.memory_failure import memory_failure
from KDSegmentatorLib.errors import CancelledError, KDSegmentatorError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.progress import CancelCheck, Steps
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.jobs.exchange import read_exchange, write_exchange
from KDSegmentatorLib.jobs.long_paths import long_path
from KDSegmentatorLib.jobs.reporter import Reporter, RunReporter
from KDSegmentatorLib.jobs.request import INPUT_NAME, SegmentRequest, Settings
from KDSegmentatorLib.jobs.run import make_segmenter, segment_volume
from KDSegmentatorLib.jobs.stored import (
    RESULT_NAME,
    StoredFailure,
    StoredRun,
    StoredSegmentation,
    stored_run,
    write_stored,
)
from KDSegmentatorLib.segmenter import Regions

_log = logging.getLogger(__name__)


def run_segmentation(request: SegmentRequest, folder: Path, reporter: Reporter, cancel: CancelCheck) -> None:
    """Run all sizes and write the result into the job's folder.

    A size that fails, for example for want of memory, does not stop the others.

    Args:
        request: what to do.
        folder: of the job.
        reporter: told of every run and its progress.
        cancel: asked at every step.

    Raises:
        CancelledError: ``cancel`` returned True.
        KDSegmentatorError: the volume cannot be read, or no size could be run; the first one's error.
    """
    volume: Volume | None = None
    regions = Regions()
    runs: list[StoredRun] = []
    failures: list[StoredFailure] = []
    first: KDSegmentatorError | None = None
    for number, size in enumerate(request.sizes):
        reporting = reporter.run(number, len(request.sizes), size)
        reporting.changed("running")
        loading = Steps("load", 2, reporting.progress, cancel)
        if volume is None:
            volume = _read_input(request.input, folder)
        loading.advance()
        try:
            runs.append(_run_size(request.settings, size, number, volume, regions, folder, loading, reporting, cancel))
        except (CancelledError, UnsuitableVolumeError):  # no other size would do better
            raise
        except (KDSegmentatorError, MemoryError) as caught:
            error = caught if isinstance(caught, KDSegmentatorError) else memory_failure(f"to segment with {size}")
            _log.warning("%s: %s", size, error)
            first = first or error
            failures.append(StoredFailure(size=size, kind=type(error).__name__, message=str(error)))
            reporting.changed("failed", str(error))
        else:
            reporting.changed("done")
    if not runs and first is not None:
        raise first
    write_stored(StoredSegmentation(runs=tuple(runs), failures=tuple(failures)), folder / RESULT_NAME)


def _read_input(name: str, folder: Path) -> Volume:
    return read_exchange(folder / INPUT_NAME) if name == INPUT_NAME else read_volume(long_path(Path(name)))


def _run_size(
    settings: Settings,
    size: str,
    number: int,
    volume: Volume,
    regions: Regions,
    folder: Path,
    loading: Steps,
    reporting: RunReporter,
    cancel: CancelCheck,
) -> StoredRun:
    """Segment with one size and write the volumes; engine and volumes are gone from memory when the next one starts."""
    segmenter = make_segmenter(settings, size, cancel, regions)
    result = segment_volume(segmenter, volume, size, loading, reporting.progress, cancel)
    labels, entropy = f"labels-{number}.npy", f"entropy-{number}.npy"
    writing = Steps("write", 2, reporting.progress, cancel)
    write_exchange(result.segmentation.volume, folder / labels)
    writing.advance()
    if result.segmentation.entropy is not None:
        write_exchange(result.segmentation.entropy, folder / entropy)
    writing.advance()
    return stored_run(result, labels, None if result.segmentation.entropy is None else entropy)

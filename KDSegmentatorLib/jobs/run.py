"""The worker's part of a segmentation: one volume, one size or several; and results as files.

A result is the same :class:`SizeResult` in both processes: as a file it is JSON with each array in a file beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from KDSegmentatorLib.analysis.statistics import LabelStatistics, label_statistics
from KDSegmentatorLib.engines.memory_failure import memory_failure
from KDSegmentatorLib.errors import CancelledError, GeometryError, KDSegmentatorError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback, Steps
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.jobs.folder import damaged, long_path, read_array, write_array
from KDSegmentatorLib.jobs.messages import (
    INPUT_NAME,
    RESULT_NAME,
    Broken,
    FailedSize,
    Request,
    Segmented,
    SegmentRequest,
)
from KDSegmentatorLib.jobs.reporter import Reporter
from KDSegmentatorLib.machine.hardware import peak_memory
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.scan import Scan, read_scan, segment_scan
from KDSegmentatorLib.segmenter import Regions, Segmenter

_log = logging.getLogger(__name__)

T = TypeVar("T")


class SizeResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What one size made of the volume.

    Attributes:
        size: as asked for, ``auto`` included; ``segmentation.record.size`` is the one that ran.
        segmentation: on the input's grid, with labels, run record and, if asked for, entropy.
        statistics: one entry a label.
        engine_reason: why this engine ran, one sentence.
        size_reason: why this size ran, with ``auto``.
        peak_memory: bytes that the worker had used at most when the run ended; None if the system does not tell.
    """

    size: str
    segmentation: Segmentation
    statistics: tuple[LabelStatistics, ...]
    engine_reason: str
    size_reason: str | None
    peak_memory: int | None


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """``result.json`` of a segmentation: the files of the sizes, and the sizes that failed with their errors."""

    results: tuple[str, ...]
    failures: tuple[tuple[str, Broken], ...]


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
    sizes = request.sizes or (request.options.size,)
    scan: Scan | None = None
    regions = Regions()
    results: list[str] = []
    failures: list[tuple[str, KDSegmentatorError]] = []
    for number, size in enumerate(sizes):
        reporting = reporter.run(number, len(sizes), size)
        reporting.changed("running")
        loading = Steps("load", 2, reporting.progress, cancel)
        if scan is None:
            scan = _read_input(request, folder, loading.check)
        loading.advance()
        options = msgspec.structs.replace(request.options, size=size)
        segmenter: Segmenter | None
        result: SizeResult | None
        try:
            if len(sizes) == 1:
                segmenter = _kept_segmenter(request, options, cancel)
            else:
                segmenter = make_segmenter(request, options, cancel, regions)
            result = segment_with(segmenter, scan, loading, reporting.progress, cancel)
            writing = Steps("write", 1, reporting.progress, cancel)
            write_result(result, folder / f"size-{number}.json")
            writing.advance()
        except (CancelledError, UnsuitableVolumeError):  # no other size would do better
            raise
        except (KDSegmentatorError, MemoryError) as caught:
            error = caught if isinstance(caught, KDSegmentatorError) else memory_failure(f"to segment with {size}")
            _log.warning("%s: %s", size, error)
            failures.append((size, error))
            reporting.changed("failed", str(error))
        else:
            results.append(f"size-{number}.json")
            reporting.changed("done")
        finally:
            segmenter = result = None  # out of memory when the next one starts
    if not results:
        raise failures[0][1]
    stored = _Stored(results=tuple(results), failures=tuple((size, Broken.of(error)) for size, error in failures))
    write_result(stored, folder / RESULT_NAME)


def read_segmented(folder: Path) -> Segmented:
    """Return the result in a job's folder.

    Raises:
        JobError: a file is missing, truncated or damaged.
    """
    stored = read_result(_Stored, folder / RESULT_NAME)
    return Segmented(
        results=tuple(read_result(SizeResult, folder / name) for name in stored.results),
        failures=tuple(FailedSize(size=size, error=broken.error()) for size, broken in stored.failures),
    )


def make_segmenter(
    request: Request, options: RunOptions, cancel: CancelCheck, regions: Regions | None = None
) -> Segmenter:
    """Return what segments as a request asks.

    Args:
        request: says where packs are.
        options: of this run.
        cancel: asked while an engine is loaded and checked.
        regions: what earlier stages found, for several sizes of one volume.

    Raises:
        KDSegmentatorError: see :class:`KDSegmentatorLib.segmenter.Segmenter`.
    """
    segmenter = Segmenter(request.task, options, store=pack_store(request), cancel=cancel, regions=regions)
    for left_out in segmenter.damaged:
        _log.warning("%s is left out: %s", left_out.id, left_out.error)
    return segmenter


_kept: dict[tuple[object, ...], Segmenter] = {}


def _kept_segmenter(request: Request, options: RunOptions, cancel: CancelCheck) -> Segmenter:
    """Return the segmenter of the last job with its engines, if this one would make the same; else make and keep it.

    A worker that stays for a next request need not load and check engines again.
    """
    manifests = sorted(
        path for folder in (request.user_packs, request.shipped_packs) for path in Path(folder).glob("*/manifest.json")
    )
    installed = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in manifests)
    key = (request.task, options, installed)
    segmenter = _kept.get(key)
    if segmenter is None:
        _kept.clear()  # of one size only: engines take memory
        segmenter = _kept[key] = make_segmenter(request, options, cancel)
    return segmenter


def pack_store(request: Request) -> PackStore:
    """Return where a request's packs are looked up."""
    return PackStore(Path(request.user_packs), Path(request.shipped_packs))


def segment_with(
    segmenter: Segmenter,
    scan: Scan,
    loading: Steps,
    progress: ProgressCallback,
    cancel: CancelCheck,
) -> SizeResult:
    """Segment a scan and measure the structures.

    Args:
        segmenter: from :func:`make_segmenter`.
        scan: the scan.
        loading: stage that ends, with its last step, when the engine is there.
        progress: called at every step.
        cancel: asked at every step.

    Raises:
        KDSegmentatorError: see :func:`KDSegmentatorLib.scan.segment_scan`.
    """
    choice = segmenter.choose(scan.volume, cancel=cancel)
    engine = segmenter.engine_for(choice.pack, cancel)
    loading.advance()
    segmentation = segment_scan(segmenter, scan, progress=progress, cancel=cancel)
    for warning in segmentation.record.warnings:
        _log.warning("%s", warning.sentence)
    return SizeResult(
        size=segmenter.options.size,
        segmentation=segmentation,
        statistics=label_statistics(segmentation.volume, segmentation.labels, scan.volume),
        engine_reason=engine.reason,
        size_reason=choice.reason,
        peak_memory=peak_memory(),
    )


def write_result(value: Any, path: Path) -> None:
    """Write anything made of dataclasses, Structs and arrays as JSON, which appears whole or not at all.

    Args:
        value: for example a :class:`~KDSegmentatorLib.geometry.Volume`.
        path: ``NAME.json``; arrays go beside it as ``NAME-0.npy``, ...

    Raises:
        JobError: the disk is full, or an array cannot be written.
        ImageWriteError: the file could not be written.
    """
    names: list[str] = []

    def beside(array: Any) -> str:
        if not isinstance(array, np.ndarray):
            raise NotImplementedError(f"{type(array).__name__} in a result")
        names.append(f"{path.stem}-{len(names)}.npy")
        write_array(array, path.with_name(names[-1]))
        return names[-1]

    content = msgspec.json.format(msgspec.json.encode(value, enc_hook=beside), indent=2)
    with atomic_output(path) as unfinished:
        unfinished.write_bytes(content + b"\n")


def read_result(cls: type[T], path: Path) -> T:
    """Return what :func:`write_result` wrote.

    Raises:
        JobError: a file is missing or damaged, or not such a value.
    """

    def from_file(_: Any, name: str) -> Any:
        return read_array(path.with_name(name))

    try:
        return msgspec.json.decode(path.read_bytes(), type=cls, dec_hook=from_file)
    except (OSError, msgspec.DecodeError, GeometryError) as error:
        raise damaged(path, error) from error


def _read_input(request: SegmentRequest, folder: Path, check: Callable[[], None]) -> Scan:
    if request.input == INPUT_NAME:
        return Scan(source=INPUT_NAME, volume=read_result(Volume, folder / f"{INPUT_NAME}.json"))
    return read_scan(long_path(Path(request.input)), series=request.series or None, check=check)

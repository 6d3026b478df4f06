"""One run: one volume through one size."""

from __future__ import annotations

import logging
from pathlib import Path

from KDSegmentatorLib.analysis.statistics import label_statistics
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback, Steps
from KDSegmentatorLib.jobs.events import SizeResult
from KDSegmentatorLib.jobs.request import Settings
from KDSegmentatorLib.machine.peak_memory import peak_memory
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Regions, Segmenter

_log = logging.getLogger(__name__)


def pack_store(settings: Settings) -> PackStore:
    """Return where a request's packs are looked up."""
    return PackStore(Path(settings.user_packs), Path(settings.shipped_packs))


def make_segmenter(settings: Settings, size: str, cancel: CancelCheck, regions: Regions | None = None) -> Segmenter:
    """Return what segments with a request's settings.

    Args:
        settings: of the request.
        size: as asked for.
        cancel: asked while an engine is loaded and checked.
        regions: what earlier stages found, for several sizes of one volume.

    Raises:
        KDSegmentatorError: see :class:`KDSegmentatorLib.segmenter.Segmenter`.
    """
    options = RunOptions(
        size=size,
        engine=settings.engine,
        precision=settings.precision,
        device=settings.device,
        threads=settings.threads,
        mirroring=settings.mirroring,
        labels=settings.labels or (),
        entropy=settings.entropy,
        check_input=settings.check_input,
        region=settings.region or "",
    )
    segmenter = Segmenter(settings.task, options, store=pack_store(settings), cancel=cancel, regions=regions)
    for damaged in segmenter.damaged:
        _log.warning("%s is left out: %s", damaged.id, damaged.error)
    return segmenter


def segment_volume(
    segmenter: Segmenter,
    volume: Volume,
    size: str,
    loading: Steps,
    progress: ProgressCallback,
    cancel: CancelCheck,
) -> SizeResult:
    """Segment a volume and measure the structures.

    Args:
        segmenter: from :func:`make_segmenter`.
        volume: the scan.
        size: as asked for.
        loading: stage that ends, with its last step, when the engine is there.
        progress: called at every step.
        cancel: asked at every step.

    Raises:
        KDSegmentatorError: see :meth:`KDSegmentatorLib.segmenter.Segmenter.__call__`.
    """
    choice = segmenter.choose(volume, cancel=cancel)
    engine = segmenter.engine_for(choice.pack, cancel)
    loading.advance()
    segmentation = segmenter(volume, progress=progress, cancel=cancel)
    for warning in segmentation.record.warnings:
        _log.warning("%s", warning.sentence)
    return SizeResult(
        size=size,
        segmentation=segmentation,
        statistics=label_statistics(segmentation.volume, segmentation.labels, volume),
        engine_reason=engine.reason,
        size_reason=choice.reason,
        peak_memory=peak_memory(),
    )

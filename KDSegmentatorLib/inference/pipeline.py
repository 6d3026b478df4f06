"""The main path: a volume and a pack in, a segmentation out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.loading import engine_version
from KDSegmentatorLib.engines.memory_failure import is_memory_failure, memory_failure
from KDSegmentatorLib.errors import EngineUnavailableError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume, slabs
from KDSegmentatorLib.inference.cleaning import clean, drop_unwanted
from KDSegmentatorLib.inference.label_selection import check_options, select_labels
from KDSegmentatorLib.inference.plausibility import check
from KDSegmentatorLib.inference.preprocessing import preprocess
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback, Steps
from KDSegmentatorLib.inference.region import (
    FoundRegion,
    check_region,
    region_record,
    visible_part,
    with_region_warnings,
)
from KDSegmentatorLib.inference.restoration import blend_and_restore
from KDSegmentatorLib.inference.sanity import judge
from KDSegmentatorLib.inference.scan_quality import noise_warnings, without_spikes
from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation
from KDSegmentatorLib.inference.windows import mirrored_axes
from KDSegmentatorLib.machine.hardware import processor_name, usable_cores
from KDSegmentatorLib.options import ENGINES, RunOptions
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.version import __version__


def segment(
    volume: Volume,
    pack: StudentPack,
    engine: Engine,
    options: RunOptions | None = None,
    *,
    region: FoundRegion | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelCheck | None = None,
) -> Segmentation:
    """Segment a volume with a student pack, exactly as nnU-Net would with the same weights.

    The volume is brought to the axis codes that the pack was trained in, cropped to its non-zero region, normalised,
    resampled, run through the network in overlapping windows, and the labels are put back on the input's own grid.

    Args:
        volume: a scan in any of the 48 axis orders, also oblique.
        pack: the student.
        engine: runs the pack's body (:func:`KDSegmentatorLib.engines.selection.choose_engine`).
        options: what is wanted; ``pack`` and ``engine`` decide size, engine, precision and device already. Every voxel
            goes to the label with the largest logit of all, also if only some labels are kept.
        region: for a pack with an earlier stage, what that found (a :class:`KDSegmentatorLib.segmenter.Segmenter` finds
            it by itself); None if the options say that it is given.
        progress: called at every step.
        cancel: asked at every step, and several times a second while the engine computes. The work stops within a
            second unless a single operation takes longer (one convolution of a very large window, one pass over a
            very large volume).

    Returns:
        Labels on exactly the input's grid, with warnings in the record where the result is not like the pack's training
        cases.

    Raises:
        UnsuitableVolumeError: the volume's intensities are not usable, it is not of the pack's modality or field of
            view, or the region is empty.
        GeometryError: the volume would be too large at the pack's spacing.
        InvalidSettingsError: a wanted label is not in the pack, mirroring is asked for but was not trained, or the
            region is missing or another pack's.
        PackError: a file of the pack is damaged.
        EngineError: the engine failed.
        InsufficientMemoryError: the machine ran out of memory, also with the smallest pieces.
        CancelledError: ``cancel`` returned True.
    """
    options, manifest = options or RunOptions(), pack.manifest
    check_options(manifest, options)
    found = _checked_region(region, manifest, options, volume)
    wanted = select_labels(manifest, options.labels)
    probabilities = [label.value for label in select_labels(manifest, options.probabilities)]
    threads = usable_cores() if options.threads is None else options.threads
    watch = _TimedEngine(engine)
    try:
        steps = Steps("preprocess", 4, progress, cancel)
        visible = visible_part(volume, found, manifest, steps.check)
        findings = check(visible, manifest, found, steps.check, refuse=options.check_input)
        visible, spikes = without_spikes(visible, manifest, steps.check)
        findings += (*spikes, *noise_warnings(visible, manifest, steps.check))
        steps.advance()
        grid, image = preprocess(visible, manifest, steps, threads)
        preprocessed = watch.elapsed()
        passes = 1 if len(wanted) == len(manifest.labels) else 2
        maps, steps = blend_and_restore(
            image,
            grid,
            pack,
            watch,
            mirroring=options.mirroring,
            entropy=options.entropy,
            probabilities=probabilities if options.probabilities else (),
            threads=threads,
            begin=lambda stage, total: Steps(stage, total, progress, cancel),
            later=passes * sum(1 for _ in slabs(volume.voxels)),
        )
        del image
        labels = clean(grid.on_input_grid(maps.labels, volume), visible, manifest, steps.check)
        findings += judge(
            labels, wanted, manifest, visible if spikes else volume, advance=steps.advance, check=steps.check
        )
        if passes > 1:
            drop_unwanted(labels.voxels, wanted, steps.advance)
        entropy = None if maps.entropy is None else grid.on_input_grid(maps.entropy, volume)
        each = {value: grid.on_input_grid(map_, volume) for value, map_ in maps.probabilities.items()}
    except (MemoryError, RuntimeError) as error:
        if not is_memory_failure(error):
            raise
        raise memory_failure(f"to segment {math.prod(volume.size):,} voxels with {manifest.id}") from None
    record = RunRecord(
        pack_id=manifest.id,
        pack_version=manifest.version,
        pack_sha256=pack.manifest_sha256,
        task=manifest.task,
        size=manifest.size,
        engine=engine.name,
        device=engine.device,
        precision=engine.precision,
        threads=threads,
        checked=options.check_input,
        mirroring=options.mirroring,
        windows=len(grid.window_starts())
        * len(mirrored_axes(manifest.windows.mirroring_axes if options.mirroring else ())),
        calls=watch.calls,
        seconds=_seconds(watch, preprocessed, found),
        library_version=__version__,
        region=None if found is None or manifest.region is None else region_record(found, manifest.region.margin_mm),
        warnings=tuple(
            sorted(
                findings if found is None else with_region_warnings(found, findings),
                key=lambda warning: warning.kind != "implausible",  # gravest first; the others stay in their order
            )
        ),
        engine_version=_version(engine.name),
        processor=processor_name(),
    )
    return Segmentation(volume=labels, labels=wanted, record=record, entropy=entropy, probabilities=each)


class _TimedEngine:
    """An engine that knows how often and how long it ran."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._start = time.perf_counter()
        self.engine_seconds = 0.0
        self.calls = 0
        self.name, self.device, self.precision = engine.name, engine.device, engine.precision

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self._start

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        start = time.perf_counter()
        self.calls += 1
        try:
            return self._engine.run(windows, cancelled)
        finally:
            self.engine_seconds += time.perf_counter() - start


def _checked_region(
    region: FoundRegion | None, manifest: Manifest, options: RunOptions, volume: Volume
) -> FoundRegion | None:
    """Return the region that a pack needs, or None for a pack without one and for a volume that shows nothing else.

    Raises:
        InvalidSettingsError: it is missing, or another pack's.
        GeometryError: it is not on the volume's grid.
        UnsuitableVolumeError: it is empty.
    """
    if options.region == "given":
        return None
    if region is None and manifest.region is not None:
        raise InvalidSettingsError(
            f"{manifest.id} is run on the region that {manifest.region.pack} finds; find that first, or say that the "
            "volume shows nothing else (region='given')"
        )
    if region is not None:
        check_region(region, manifest, volume)
    return region


def _version(engine: str) -> str:
    """Return the version of an engine; empty for one that is not ours."""
    try:
        return engine_version(engine) if engine in ENGINES else ""
    except EngineUnavailableError:
        return ""


def _seconds(watch: _TimedEngine, preprocessed: float, found: FoundRegion | None) -> dict[str, float]:
    total, engine = watch.elapsed(), watch.engine_seconds
    seconds = {"preprocess": preprocessed, "windows": engine, "restore": total - preprocessed - engine, "total": total}
    if found is not None:
        region = found.record.seconds["total"]
        seconds |= {"region": region, "total": total + region}
    return seconds

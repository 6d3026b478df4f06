"""The main path: a volume and a pack in, a segmentation out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.head import VoxelMaps
from KDSegmentatorLib.engines.memory_failure import is_memory_failure, memory_failure
from KDSegmentatorLib.errors import ImplausibleVolumeError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume, slabs
from KDSegmentatorLib.inference.accumulation import blended_slabs, mirrored_axes, windows_reaching
from KDSegmentatorLib.inference.head_place import head_comes_early
from KDSegmentatorLib.inference.network_grid import NetworkGrid
from KDSegmentatorLib.inference.normalization import normalize
from KDSegmentatorLib.inference.pieces import largest_pieces
from KDSegmentatorLib.inference.plausibility import (
    WHOLE_VOLUME,
    check_field_of_view,
    check_finite,
    check_intensities,
)
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback, Steps
from KDSegmentatorLib.inference.region import (
    FoundRegion,
    check_region,
    check_region_size,
    only_region,
    region_record,
    region_warnings,
    without_empty,
)
from KDSegmentatorLib.inference.resampling import resample_image
from KDSegmentatorLib.inference.restoration import Restoration
from KDSegmentatorLib.inference.result_warning import ResultWarning, input_warning
from KDSegmentatorLib.inference.sanity import check_result
from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation
from KDSegmentatorLib.machine.hardware import usable_cores
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Label, Manifest
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.version import __version__

_log = logging.getLogger(__name__)

_NAMES_A_LINE = 4


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
    options = options or RunOptions()
    manifest = pack.manifest
    check_options(manifest, options)
    request = _Request(
        wanted=select_labels(manifest, options.labels),
        entropy=options.entropy,
        probabilities=tuple(label.value for label in select_labels(manifest, options.probabilities))
        if options.probabilities
        else (),
        threads=usable_cores() if options.threads is None else options.threads,
        progress=progress,
        cancel=cancel,
    )
    if manifest.region is not None and region is None and options.region != "given":
        raise InvalidSettingsError(
            f"{manifest.id} is run on the region that {manifest.region.pack} finds; find that first, or say that the "
            "volume shows nothing else (region='given')"
        )
    found = None if options.region == "given" else region
    if found is not None:
        check_region(found, manifest, volume)
    mirrorings = mirrored_axes(manifest.windows.mirroring_axes if options.mirroring else ())
    watch = _Stopwatch(engine)
    try:
        shown = _shown(volume, found, manifest, request)
        grid, image, warnings = _preprocessed(shown, found, manifest, request, check_input=options.check_input)
        preprocessed = watch.elapsed()
        starts = grid.window_starts()
        passes = 1 if len(request.wanted) == len(manifest.labels) else 2
        slabs_to_check = passes * sum(1 for _ in slabs(volume.voxels))
        maps, steps = _restored_maps(grid, image, pack, watch, starts, mirrorings, request, slabs_to_check)
        del image
        result = _on_the_input_grid(maps, grid, volume)
        drawn: npt.NDArray[Any] = result.labels
        if manifest.region is not None:
            drawn = without_empty(drawn, shown.voxels, steps.check)
        drawn = largest_pieces(drawn, manifest.single_pieces, steps.check)
        labelled = volume.with_voxels(drawn)
        warnings += check_result(labelled, request.wanted, manifest, volume, advance=steps.advance, check=steps.check)
        if passes > 1:
            _drop_unwanted(labelled.voxels, request.wanted, steps.advance)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_failure(error):
            raise
        raise memory_failure(f"to segment {math.prod(volume.size):,} voxels with {manifest.id}") from None
    total = watch.elapsed()
    seconds = {
        "preprocess": preprocessed,
        "windows": watch.inside,
        "restore": total - preprocessed - watch.inside,
        "total": total,
    }
    if found is not None:
        earlier = found.record.seconds["total"]
        seconds |= {"region": earlier, "total": total + earlier}
    return Segmentation(
        volume=labelled,
        entropy=None if result.entropy is None else volume.with_voxels(result.entropy),
        probabilities={value: volume.with_voxels(map_) for value, map_ in result.probabilities.items()},
        labels=request.wanted,
        record=RunRecord(
            pack_id=manifest.id,
            pack_version=manifest.version,
            pack_sha256=pack.manifest_sha256,
            task=manifest.task,
            size=manifest.size,
            engine=engine.name,
            device=engine.device,
            precision=engine.precision,
            threads=request.threads,
            checked=options.check_input,
            mirroring=options.mirroring,
            windows=len(starts) * len(mirrorings),
            calls=watch.calls,
            seconds=seconds,
            library_version=__version__,
            region=None
            if found is None or manifest.region is None
            else region_record(found, manifest.region.margin_mm),
            warnings=warnings if found is None else (*region_warnings(found), *warnings),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What the caller of :func:`segment` wants, checked."""

    wanted: tuple[Label, ...]
    entropy: bool
    probabilities: tuple[int, ...]
    threads: int
    progress: ProgressCallback | None
    cancel: CancelCheck | None

    def steps(self, stage: str, total: int) -> Steps:
        return Steps(stage, total, self.progress, self.cancel)


class _Stopwatch:
    """An engine that knows how often and how long it ran."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._start = time.perf_counter()
        self.inside = 0.0
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
            self.inside += time.perf_counter() - start


def _shown(volume: Volume, found: FoundRegion | None, manifest: Manifest, request: _Request) -> Volume:
    """Return the volume, or what the network may see of it."""
    if found is None or manifest.region is None or found.alone:
        return volume
    return only_region(volume, found.mask, manifest.region.margin_mm, request.steps("preprocess", 4).check)


def _preprocessed(
    volume: Volume, found: FoundRegion | None, manifest: Manifest, request: _Request, *, check_input: bool
) -> tuple[NetworkGrid, npt.NDArray[np.float32], tuple[ResultWarning, ...]]:
    """Return the grids, the volume, or its region, as the network takes it, and warnings about it."""
    steps = request.steps("preprocess", 4)
    seen = WHOLE_VOLUME
    if found is not None and manifest.region is not None and not found.alone:
        seen = f"what {manifest.region.pack} found in the volume"
    check_finite(volume, steps.check, seen)
    warnings = _input_findings(volume, found, manifest, seen, steps, check_input=check_input)
    steps.advance()
    grid = NetworkGrid(volume.reoriented(manifest.preprocessing.axis_codes, steps.check), manifest)
    steps.advance()
    image = normalize(grid.cropped, manifest.preprocessing.normalization, steps.check)
    steps.advance()
    image = resample_image(
        image,
        grid.network_shape,
        manifest.preprocessing.image_resampling,
        grid.separate_axis,
        steps.check,
        request.threads,
    )
    steps.advance()
    return grid, image, warnings


def _input_findings(
    volume: Volume, found: FoundRegion | None, manifest: Manifest, seen: str, steps: Steps, *, check_input: bool
) -> tuple[ResultWarning, ...]:
    """Check that the volume looks like what the pack was made for; without ``check_input`` return what does not."""

    def intensities() -> None:
        if found is None:
            check_intensities(volume, manifest.modality, steps.check)

    def region_size() -> None:
        if found is not None:  # the earlier stage has looked at the whole volume
            check_region_size(found, manifest, volume)

    findings = []
    for check in (intensities, region_size, lambda: check_field_of_view(volume, manifest, seen)):
        try:
            check()
        except ImplausibleVolumeError as error:
            if check_input:
                raise
            findings.append(input_warning(error.finding, manifest))
    return tuple(findings)


def _restored_maps(
    grid: NetworkGrid,
    image: npt.NDArray[np.float32],
    pack: StudentPack,
    engine: Engine,
    starts: list[tuple[int, int, int]],
    mirrorings: list[tuple[int, ...]],
    request: _Request,
    later: int,
) -> tuple[VoxelMaps, Steps]:
    """Return the maps on the transposed grid of the whole volume, and the stage with ``later`` steps still to come."""
    manifest = pack.manifest
    head = pack.head()
    early = head_comes_early(manifest)
    maps, cropped = grid.maps(len(head.bias), entropy=request.entropy, probabilities=request.probabilities)
    channels = len(head.bias) if early else manifest.network.features
    parts = grid.strips(channels) if len(starts) > 1 else [None]
    if len(parts) > 1:
        _log.info("memory is short: the plane is worked on in %d strips", len(parts))
    patch = manifest.windows.patch_size
    works = [grid.strip(part, cropped) for part in parts]
    reaching = sum(len(windows_reaching(starts, image.shape, patch, columns)) for _, _, columns in works)
    steps = request.steps("windows", reaching * len(mirrorings))
    rows = len(cropped.labels) * len(works)
    last: Steps | None = None

    def restored(count: int) -> None:
        nonlocal rows, last
        rows -= count
        if steps.done < steps.total:
            steps.check()
        elif last is None:  # what is left after the last window
            last = request.steps("restore", rows + count + later)
        if last is not None:
            last.advance(count)

    for into, operators, columns in works:
        with Restoration(
            into,
            operators,
            None if early else head,
            threads=request.threads,
            restored=restored,
        ) as restoration:
            for slab in blended_slabs(
                image,
                engine,
                patch_size=patch,
                starts=starts,
                mirrorings=mirrorings,
                features=manifest.network.features,
                early_head=head if early else None,
                steps=steps,
                threads=request.threads,
                strip=columns,
            ):
                restoration.push(slab)
            del slab  # makes room for the next strip's
    return maps, last or request.steps("restore", later)


def _on_the_input_grid(maps: VoxelMaps, grid: NetworkGrid, volume: Volume) -> VoxelMaps:
    def back(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return grid.restored(values).reoriented(volume.axis_codes).voxels

    return VoxelMaps(
        labels=back(maps.labels),
        entropy=None if maps.entropy is None else back(maps.entropy),
        probabilities={value: back(map_) for value, map_ in maps.probabilities.items()},
    )


def check_options(manifest: Manifest, options: RunOptions) -> None:
    """Check what is asked of a pack, before any work is done.

    Raises:
        InvalidSettingsError: a wanted label is not in the pack, or mirroring is asked for but was not trained.
    """
    select_labels(manifest, options.labels)
    select_labels(manifest, options.probabilities)
    if options.mirroring and not manifest.windows.mirroring_axes:
        raise InvalidSettingsError(f"{manifest.id} was trained without mirroring; run it without --mirroring")


def select_labels(manifest: Manifest, wanted: Sequence[str]) -> tuple[Label, ...]:
    """Return the labels with the wanted names (upper or lower case) or values, in the pack's order; all of none.

    Raises:
        InvalidSettingsError: a name or value is not in the pack.
    """
    if not wanted:
        return manifest.labels
    by_key = {str(label.value): label for label in manifest.labels}
    by_key |= {_plain(label.name): label for label in manifest.labels}
    chosen = set()
    for key in wanted:
        found = by_key.get(_plain(key))
        if found is None:
            raise InvalidSettingsError(f"{manifest.id} has no label {key!r}{_meant(key, manifest)}")
        chosen.add(found.value)
    return tuple(label for label in manifest.labels if label.value in chosen)


def _plain(name: str) -> str:
    """Return a name as it is compared: ``Left_thalamus`` is ``left-thalamus`` is ``Left Thalamus``."""
    return name.casefold().replace("_", "-").replace(" ", "-")


def _meant(key: str, manifest: Manifest) -> str:
    """Return what to write instead of a wrong name: close names, or the pack's labels a few to a line."""
    names = {_plain(label.name): label.name for label in manifest.labels}
    parts = [name for name in names if _plain(key) in name]
    close = parts or get_close_matches(_plain(key), names, n=2)
    if close:
        meant = " or ".join(names[name] for name in close[:3])
        return f" (do you mean {meant}?); 'kdseg packs show {manifest.id}' lists all {len(names)}"
    known = [f"{label.name} ({label.value})" for label in manifest.labels]
    lines = [", ".join(known[start : start + _NAMES_A_LINE]) for start in range(0, len(known), _NAMES_A_LINE)]
    return "; it has: " + ",\n  ".join(lines)


def _drop_unwanted(labels: npt.NDArray[Any], wanted: Sequence[Label], advance: Callable[[], None]) -> None:
    """Make background of what is not wanted, in place."""
    values = np.array([label.value for label in wanted], dtype=labels.dtype)
    for part in slabs(labels):
        labels[part][~np.isin(labels[part], values)] = 0
        advance()

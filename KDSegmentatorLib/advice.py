"""Seconds and memory of each size of a task for a volume, and the size that this computer's hardware suggests.

A run takes windows x seconds a window in the engine, and the rest by voxels and windows. Both are taken from past runs
of the pack on this computer (:mod:`KDSegmentatorLib.past_runs`). Until there is one, seconds a window are its
floating-point operations over the rate of other packs here, or over the rate of a common processor.

Nothing that a run does depends on an estimate; with the size ``auto`` the choice of the pack does, and that knows
nothing of the momentary load.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import cast

import msgspec
import numpy as np

from KDSegmentatorLib.engines.candidates import Candidate, find_candidates
from KDSegmentatorLib.engines.selection import choose_engine, is_compiled
from KDSegmentatorLib.errors import CancelledError, EngineUnavailableError, KDSegmentatorError
from KDSegmentatorLib.geometry import Vector, Volume, axes_along
from KDSegmentatorLib.inference.accumulation import blended_channels
from KDSegmentatorLib.inference.network_grid import NetworkGrid
from KDSegmentatorLib.machine.hardware import Hardware, detect_hardware
from KDSegmentatorLib.options import AUTOMATIC, RunOptions
from KDSegmentatorLib.packs.catalogue import Family, Selection
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.past_runs import PastRun, PastRuns, WatchedEngine, way_to_run

TIME_BUDGET_SECONDS = 10.0
"""What ``auto`` wants a run to take at most."""

PROGRAM_SECONDS = 0.6
"""Of every estimate: interpreter and libraries. A process that waits has them behind it."""

MEMORY_SHARE = 0.8
"""Of the available memory that an estimate may take: it may be wrong by a fifth."""

# One core of an AMD EPYC (Zen 3), OpenVINO float32: a guess of each part's time, and how the parts relate to each other
_RATE = 60e9  # floating-point operations a second
_LOADING_SECONDS, _LOADING_PARAMETER = 0.3, 20e-9  # a compiled network; compiling it takes three times that
_COMPILING = 3.0
_FILES = 40e-9  # a voxel of the scan: read, counted, written
_PREPARING = 20e-9  # a voxel of the scan: checked, normalised, resampled
_ARRAYS_SECONDS = 0.08  # of the arrays, whatever their size
_BLENDING = 4e-9  # a voxel of a window and a channel
_LABELLING = 2e-9  # a voxel of the scan and a label; twice that with entropy or probabilities

# Bytes: measured with OpenVINO 2026.4 and onnxruntime 1.32 on x86-64 Linux
_PROCESS_BYTES = 140e6
_PARAMETER_BYTES = 10
_FEATURE_MAPS = {"openvino": 5.0, "onnxruntime": 8.5}  # float32 arrays of the network's last features and a window
_FLOAT32 = 4
_MOST_SHARING_THREADS = 8  # more do not make numpy any faster

_log = logging.getLogger(__name__)


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of a pack is expected to take on a computer that does nothing else.

    Attributes:
        pack: the student.
        seconds: wall time from the start of the program to the labels on the disk, the earlier stage included.
        loading_seconds: of these, to load and check the engines; a process that ran the packs before has them.
        memory_bytes: at the peak.
        windows: network calls.
        measured: whether that follows from past runs of the pack on this computer; a guess otherwise.
        engine: what will run it, for example ``openvino int8 on cpu``; None if nothing here can.
        obstacle: why not to take it, one clause; None if nothing is in the way but perhaps the time.
    """

    pack: StudentPack
    seconds: float
    loading_seconds: float
    memory_bytes: int
    windows: int
    measured: bool
    engine: str | None
    obstacle: str | None


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """Which size to take.

    Attributes:
        chosen: one of ``estimates``.
        reason: one sentence for the user.
        estimates: of every size of the task, largest first.
    """

    chosen: Estimate
    reason: str
    estimates: tuple[Estimate, ...]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The pack to run, why if the size was ``auto``, or a warning if memory will not do; and the pack run before it."""

    pack: StudentPack
    reason: str | None = None
    region_pack: StudentPack | None = None


def estimate(
    pack: StudentPack,
    volume: Volume,
    options: RunOptions | None = None,
    *,
    region_pack: StudentPack | None = None,
    hardware: Hardware | None = None,
    runs: PastRuns | None = None,
    crop: bool = True,
) -> Estimate:
    """Return what a pack will take.

    Args:
        pack: the student.
        volume: the scan; of its voxels only matters where they are zero.
        options: of the run; size and labels do not matter.
        region_pack: is run before the pack.
        hardware: what the process may use; None finds it out.
        runs: on this computer; None takes those in the user's cache.
        crop: whether to look for the zeros round the scan, which takes a pass over it; without, it counts as a whole.

    Raises:
        GeometryError: the volume would be empty or too large at the packs' spacing.

    Examples:
        >>> estimate(PackStore().get("hippocampus-x1_4"), read_volume("t1.nii.gz")).seconds
    """
    options, hardware = options or RunOptions(), hardware or detect_hardware()
    known = (runs or PastRuns()).all()
    found = _alone(pack, volume, options, hardware, known, crop=crop)
    if region_pack is not None:
        region_options = msgspec.structs.replace(options, mirroring=False, entropy=False, probabilities=())
        early = _alone(region_pack, volume, region_options, hardware, known, crop=crop)
        obstacle = None if early.obstacle is None else f"needs {region_pack.manifest.id}, which {early.obstacle}"
        found = msgspec.structs.replace(
            found,
            seconds=found.seconds + early.seconds - PROGRAM_SECONDS - _FILES * volume.voxels.size,
            loading_seconds=found.loading_seconds + early.loading_seconds,
            memory_bytes=max(early.memory_bytes, found.memory_bytes),
            windows=early.windows + found.windows,
            measured=early.measured and found.measured,
            engine=None if early.engine is None else found.engine,
            obstacle=found.obstacle or obstacle,
        )
    if found.obstacle is None and not _fits(found, hardware):
        return msgspec.structs.replace(found, obstacle=_memory_obstacle(found, hardware))
    return found


def advise(
    family: Family,
    volume: Volume,
    options: RunOptions | None = None,
    *,
    region_packs: Mapping[str, StudentPack] | None = None,
    hardware: Hardware | None = None,
    runs: PastRuns | None = None,
    time_budget: float = TIME_BUDGET_SECONDS,
) -> Advice:
    """Return the best size of a family that fits the time and the memory; the smallest if none does.

    The best is the one with the highest mean Dice where the sizes were measured on the same cases, of equal ones the
    smaller; otherwise the largest.

    Args:
        family: packs of one task, largest first.
        volume: see :func:`estimate`, as for ``options``, ``hardware`` and ``runs``.
        options: of the run.
        region_packs: by the id of a pack, the one that is run before it.
        hardware: what the process may use.
        runs: on this computer.
        time_budget: seconds.

    Raises:
        GeometryError: the volume would be empty or too large at the packs' spacing.
        EngineUnavailableError: no size can be run with the engine, precision or device that was asked for.
    """
    options, hardware, runs = options or RunOptions(), hardware or detect_hardware(), runs or PastRuns()
    estimates = tuple(
        estimate(
            pack,
            volume,
            options,
            region_pack=(region_packs or {}).get(pack.manifest.id),
            hardware=hardware,
            runs=runs,
        )
        for pack in family.packs
    )
    possible = [each for each in estimates if each.engine is not None or not _asked(options)]
    if not possible:
        raise EngineUnavailableError(f"{family.task} {estimates[-1].pack.manifest.size} {estimates[-1].obstacle}")
    free = [each for each in possible if each.obstacle is None]
    fast = [each for each in free if each.seconds <= time_budget]
    chosen = _best(fast) if fast else (free or possible)[-1]
    reason = _reason(chosen, estimates, fast, time_budget, hardware)
    return Advice(chosen=chosen, reason=reason, estimates=estimates)


def choose(
    selection: Selection,
    volume: Volume,
    options: RunOptions | None = None,
    *,
    runs: PastRuns | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Choice:
    """Return the pack for a volume: that of a fixed size, with a warning if it may not fit; or the advised one.

    On a computer where nothing has run yet in this way, the smallest size's network is run once, to know its speed.

    Args:
        selection: what there is to choose from.
        volume: see :func:`estimate`, as for ``options`` and ``runs``.
        options: of the run.
        runs: on this computer.
        cancelled: asked several times a second while the speed is measured.

    Raises:
        GeometryError: the volume would be empty or too large at the packs' spacing.
        EngineUnavailableError: no size can be run as ``options`` ask for.
        CancelledError: ``cancelled`` returned True.
    """
    options, hardware, runs = options or RunOptions(), detect_hardware(), runs or PastRuns()
    if not selection.automatic:
        pack = selection.packs.packs[0]
        earlier = selection.region_packs.get(pack.manifest.id)
        warning = memory_warning(pack, volume, options, region_pack=earlier, hardware=hardware)
        return Choice(pack=pack, reason=warning, region_pack=earlier)
    if len(selection.packs.packs) > 1:
        measure_speed(selection.packs, options, runs, cancelled)
    # what other programs use at the moment must not decide which network runs
    idle = replace(hardware, available_memory=hardware.total_memory or hardware.available_memory)
    advice = advise(selection.packs, volume, options, region_packs=selection.region_packs, hardware=idle, runs=runs)
    pack, reason = advice.chosen.pack, advice.reason
    earlier = selection.region_packs.get(pack.manifest.id)
    if hardware.total_memory is not None and (
        warning := memory_warning(pack, volume, options, region_pack=earlier, hardware=hardware)
    ):
        reason += f"; at the moment {warning}"
    if selection.damaged:
        reason += f"; left out as unusable: {', '.join(damaged.id for damaged in selection.damaged)}"
    return Choice(pack=pack, reason=reason, region_pack=earlier)


def memory_warning(
    pack: StudentPack,
    volume: Volume,
    options: RunOptions | None = None,
    *,
    region_pack: StudentPack | None = None,
    hardware: Hardware | None = None,
) -> str | None:
    """Return a sentence if a pack is not expected to fit the available memory, otherwise None; see :func:`estimate`.

    Raises:
        GeometryError: the volume would be empty or too large at the pack's spacing.
    """
    hardware = hardware or detect_hardware()
    for crop in (False, True):  # looking for zeros round the scan takes a pass over it: only if it may matter
        expected = estimate(pack, volume, options, region_pack=region_pack, hardware=hardware, crop=crop)
        if _fits(expected, hardware):
            return None
    return (
        f"{pack.manifest.size} {_memory_obstacle(expected, hardware)}: it may fail or slow the computer down; a "
        "smaller size, if there is one, or fewer threads take less"
    )


def measure_speed(
    family: Family, options: RunOptions, runs: PastRuns, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Run the smallest network of a family once where nothing is known of the way it will be run, and remember it.

    Raises:
        CancelledError: ``cancelled`` returned True.
    """
    pack = family.packs[-1]
    usable = find_candidates(pack.manifest, options).usable
    if not usable or any(run.way == _way(usable[0], options) for run in runs.all()):
        return
    try:
        chosen = choose_engine(pack, options, cancelled=cancelled)
        engine = WatchedEngine(chosen.engine, options.threads)
        window = np.random.default_rng(0).normal(size=(1, 1, *pack.manifest.windows.patch_size)).astype(np.float32)
        chosen.engine.run(window, cancelled)  # the first one also gets the memory
        engine.run(window, cancelled)
    except CancelledError:
        raise
    except KDSegmentatorError as error:
        _log.warning("the speed of this computer could not be measured: %s", error)
        return
    runs.add(engine.past_run(pack, chosen.loading_seconds, compiled=chosen.compiled))


def _way(candidate: Candidate, options: RunOptions) -> str:
    return way_to_run(candidate.engine, candidate.precision, candidate.device, options.threads)


def _alone(
    pack: StudentPack,
    volume: Volume,
    options: RunOptions,
    hardware: Hardware,
    known: Sequence[PastRun],
    *,
    crop: bool,
) -> Estimate:
    """Return what a pack takes without the one before it; memory that does not do is no obstacle yet."""
    manifest = pack.manifest
    found = find_candidates(manifest, options)
    of_pack = [run for run in known if run.pack_sha256 == pack.manifest_sha256]
    ran = {run.way for run in of_pack}
    # one that ran: better ones may have failed their check
    candidate = next((each for each in found.usable if _way(each, options) in ran), next(iter(found.usable), None))
    way = "" if candidate is None else _way(candidate, options)
    of_pack = [run for run in of_pack if run.way == way]
    threads = options.threads or hardware.logical_cores
    grid = NetworkGrid(_visible(_in_order(volume, manifest.preprocessing.axis_codes, crop=crop), manifest), manifest)
    windows = len(grid.window_starts()) * (2 ** len(manifest.windows.mirroring_axes) if options.mirroring else 1)
    obstacle = None
    if candidate is None and _asked(options):
        obstacle = f"cannot be run here with {_asked(options)}: {'; '.join(found.left_out)}"
    loading_seconds = _loading_seconds(pack, candidate, of_pack)
    return Estimate(
        pack=pack,
        seconds=PROGRAM_SECONDS
        + loading_seconds
        + _FILES * volume.voxels.size
        + windows * _window_seconds(manifest, way, of_pack, known, hardware)
        + _array_seconds(manifest, volume, windows, options, of_pack, threads),
        loading_seconds=loading_seconds,
        memory_bytes=_memory_bytes(manifest, volume, grid, options, candidate, threads),
        windows=windows,
        measured=any(run.voxels for run in of_pack),
        engine=None if candidate is None else candidate.title,
        obstacle=obstacle,
    )


def _window_seconds(
    manifest: Manifest, way: str, of_pack: Sequence[PastRun], known: Sequence[PastRun], hardware: Hardware
) -> float:
    """Return the seconds of one window in the engine."""
    if of_pack:
        return min(run.window_seconds for run in of_pack)  # the fastest was disturbed least
    rates = [run.flops / run.window_seconds for run in known if run.way == way and run.window_seconds > 0]
    cores = hardware.physical_cores or hardware.logical_cores
    return manifest.network.flops_per_window / (median(rates) if rates else _RATE * cores)


def _loading_seconds(pack: StudentPack, candidate: Candidate | None, of_pack: Sequence[PastRun]) -> float:
    """Return the seconds to load the engine: less if the network was compiled before."""
    compiled = candidate is not None and is_compiled(pack, candidate)
    guess = _LOADING_SECONDS + _LOADING_PARAMETER * pack.manifest.network.parameters
    alike = [run.loading_seconds for run in of_pack if run.compiled == compiled]
    if alike:
        return min(alike)
    if compiled:
        return min([guess, *(run.loading_seconds for run in of_pack)])
    return guess * _COMPILING if candidate is not None and candidate.engine == "openvino" else guess


def _array_seconds(
    manifest: Manifest, volume: Volume, windows: int, options: RunOptions, of_pack: Sequence[PastRun], threads: int
) -> float:
    """Return the seconds of preparing the image, blending windows and finding labels."""
    labels, patch = len(manifest.labels) + 1, math.prod(manifest.windows.patch_size)

    def model(voxels: int, windows: int) -> float:
        blending = windows * patch * _BLENDING * blended_channels(manifest)
        return _ARRAYS_SECONDS + voxels * (_PREPARING + _LABELLING * labels) + blending

    certainty = 2 * _LABELLING * labels * volume.voxels.size if options.entropy or options.probabilities else 0.0
    complete = [run for run in of_pack if run.voxels]
    if complete:
        slowness = min(run.array_seconds / model(run.voxels, run.windows) for run in complete)
    else:
        slowness = 1 / min(threads, _MOST_SHARING_THREADS)
    return slowness * (model(volume.voxels.size, windows) + certainty)


def _memory_bytes(
    manifest: Manifest,
    volume: Volume,
    grid: NetworkGrid,
    options: RunOptions,
    candidate: Candidate | None,
    threads: int,
) -> int:
    """Return the peak: what is there all the time, and the larger of preparing the image and running windows."""
    network, patch = manifest.network, manifest.windows.patch_size
    channels, labels = blended_channels(manifest), len(manifest.labels) + 1
    # two copies where axes are turned; a label of every voxel, its value for the statistics, and what else is wanted
    scan = 2 * volume.voxels.nbytes + volume.voxels.size * (
        (9 if labels <= 256 else 10) + _FLOAT32 * (options.entropy + len(options.probabilities))
    )
    image, cropped = math.prod(grid.network_shape), math.prod(grid.cropped_shape)
    preparing = 2 * _FLOAT32 * (image + cropped)
    padded = [max(pair) for pair in zip(grid.network_shape, patch, strict=True)]
    slab = min(patch[0], padded[0]) * padded[1] * padded[2] * (channels + 2)
    planes = 2 * threads * channels * max(padded[1] * padded[2], grid.cropped_shape[1] * grid.cropped_shape[2])
    maps = _FEATURE_MAPS["openvino" if candidate is None else candidate.engine]
    features = maps * network.features * math.prod(patch)
    running = _FLOAT32 * (image + math.prod(padded) + slab + planes + features)
    fixed = _PROCESS_BYTES + _PARAMETER_BYTES * network.parameters
    return int(fixed + scan + max(preparing, running))


def _visible(volume: Volume, manifest: Manifest) -> Volume:
    """Return, as a view, the most that a pack with an earlier stage sees: as much as its training images showed.

    Args:
        volume: in the pack's axis order.
        manifest: of the pack.
    """
    if manifest.region is None or manifest.field_of_view is None:
        return volume
    parts = []
    for voxels, spacing, most in zip(volume.size, volume.spacing, manifest.field_of_view.largest, strict=True):
        kept = min(voxels, math.ceil(most / spacing))
        parts.append(slice((voxels - kept) // 2, (voxels - kept) // 2 + kept))
    return Volume(volume.voxels[tuple(reversed(parts))], volume.spacing)


def _in_order(volume: Volume, axis_codes: str, *, crop: bool) -> Volume:
    """Return the volume, as a view, with its axes in another order: which way they run decides no length.

    Args:
        volume: the scan.
        axis_codes: wanted codes.
        crop: False gives a volume of the same shape without any zero, which takes no memory.
    """
    axes = axes_along(volume.axis_codes, axis_codes)
    voxels = volume.voxels if crop else np.broadcast_to(np.uint8(1), volume.voxels.shape)
    return Volume(
        voxels.transpose([2 - axis for axis in reversed(axes)]),
        cast("Vector", tuple(volume.spacing[axis] for axis in axes)),
    )


def _fits(expected: Estimate, hardware: Hardware) -> bool:
    available = hardware.available_memory
    return available is None or expected.memory_bytes <= MEMORY_SHARE * available


def _memory_obstacle(expected: Estimate, hardware: Hardware) -> str:
    available = (hardware.available_memory or 0) / 1e9
    return f"needs about {expected.memory_bytes / 1e9:.1f} GB of memory, {available:.1f} GB are available"


def _asked(options: RunOptions) -> str:
    """Return what was asked for, for example ``engine openvino, precision int8``; empty if everything was left open."""
    asked = (("engine", options.engine), ("precision", options.precision), ("device", options.device))
    return ", ".join(f"{name} {value}" for name, value in asked if value != AUTOMATIC)


def _best(sizes: Sequence[Estimate]) -> Estimate:
    """Return the size with the highest mean Dice, of equal ones the smallest; the largest if not comparable."""
    found = [size.pack.manifest.evaluation for size in sizes]
    measured = {(each.dataset, each.split, each.cases, each.mirroring) for each in found if each is not None}
    if len(measured) > 1 or None in found:
        return sizes[0]
    return max(reversed(sizes), key=_mean_dice)


def _mean_dice(size: Estimate) -> float:
    evaluation = size.pack.manifest.evaluation
    return math.nan if evaluation is None else evaluation.mean_dice.mean


def _reason(
    chosen: Estimate,
    sizes: tuple[Estimate, ...],
    fast: Sequence[Estimate],
    time_budget: float,
    hardware: Hardware,
) -> str:
    """Return why a size is advised, one sentence."""
    size = chosen.pack.manifest.size
    smallest = "the smallest size" if chosen is sizes[-1] else "the smallest size that can be taken"
    if chosen.obstacle is not None and hardware.available_memory is not None:
        available = f"{hardware.available_memory / 1e9:.1f} GB"
        text = f"{size} is {smallest}; no size is expected to fit the available memory of {available}"
    elif fast and chosen is not fast[0]:
        others = ", ".join(f"{each.pack.manifest.size} {_mean_dice(each):.3f}" for each in fast[: fast.index(chosen)])
        text = (
            f"{size} has the best Dice of the sizes expected to finish within {time_budget:g} s "
            f"({_mean_dice(chosen):.3f} on held-out cases; {others})"
        )
    elif chosen.seconds <= time_budget:
        text = f"{size} is the largest size expected to finish within {time_budget:g} s"
    else:
        text = f"{size} is {smallest}; no size is expected to finish within {time_budget:g} s"
    cores = hardware.logical_cores
    on = f"{cores} logical core{'s' if cores > 1 else ''}"
    if hardware.available_memory is None:
        on += ", memory unknown"
    seconds = f"{chosen.seconds:.1f}" if chosen.seconds < 10 else f"{chosen.seconds:.0f}"
    parts = [f"{text} (estimated {seconds} s and {chosen.memory_bytes / 1e9:.1f} GB on {on})"]
    larger = sizes[: sizes.index(chosen)]
    parts += [f"{each.pack.manifest.size} {each.obstacle}" for each in larger if each.obstacle is not None]
    if chosen.engine is None:
        parts.append("no engine is installed yet, so that the time is a guess")
    elif not chosen.measured:
        parts.append("it has not run on this computer yet, so that the time is a guess")
    return "; ".join(parts)

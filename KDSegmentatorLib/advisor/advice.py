"""How long and how much memory every size of a task will take for a volume, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from KDSegmentatorLib.advisor.calibration import Calibration
from KDSegmentatorLib.advisor.duration import network_calls, run_duration
from KDSegmentatorLib.advisor.engine_costs import ENGINE_COSTS, OPENVINO
from KDSegmentatorLib.advisor.memory import kept_bytes, peak_bytes
from KDSegmentatorLib.advisor.speed import Speed, nominal_speed
from KDSegmentatorLib.advisor.workload import RunOptions, Workload, same_work, workload
from KDSegmentatorLib.engines.candidates import Candidate, EngineRequest, find_candidates
from KDSegmentatorLib.errors import EngineUnavailableError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.machine.hardware import Hardware
from KDSegmentatorLib.options import AUTOMATIC, check_threads
from KDSegmentatorLib.packs.catalogue import Family
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.pack import StudentPack

TIME_BUDGET_SECONDS = 10.0

MEMORY_FRACTION = 0.8
"""Share of the available memory that an estimate may take: it may be wrong by a fifth."""

_WHOLE_SECONDS = 10

SpeedOf = Callable[[Candidate | None, int | None], Speed]
"""How fast the machine is with an engine (None: without one) and a number of threads (None: the engine's own)."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run is expected to take on a machine that does nothing else.

    Attributes:
        seconds: wall time from the start of the program to the labels on the disk.
        memory: peak memory in bytes.
        windows: network calls, of an earlier stage too.
        measured: whether the time follows from measurements of this machine; a guess otherwise.
    """

    seconds: float
    memory: int
    windows: int
    measured: bool = True


@dataclass(frozen=True, kw_only=True)
class SizeEstimate:
    """What one size of a task means for a volume.

    Attributes:
        pack: the student.
        estimate: what it will take.
        engine: what will run it, for example ``openvino int8 on cpu``; None if nothing here can.
        obstacle: why not to take it, one clause; None if nothing is in the way but perhaps the time.
    """

    pack: StudentPack
    estimate: Estimate
    engine: str | None
    obstacle: str | None


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Which student to take.

    Attributes:
        pack: the student.
        estimate: what it will take.
        reason: one sentence for the user.
        sizes: every size of the task, largest first.
    """

    pack: StudentPack
    estimate: Estimate
    reason: str
    sizes: tuple[SizeEstimate, ...]


def advise(
    family: Family,
    volume: Volume,
    hardware: Hardware,
    *,
    request: EngineRequest | None = None,
    time_budget: float = TIME_BUDGET_SECONDS,
    mirroring: bool = False,
    entropy: bool = False,
    probabilities: int = 0,
    speed_of: SpeedOf | None = None,
    region_packs: Mapping[str, StudentPack] | None = None,
) -> Advice:
    """Return the best student of a family that fits the time and the memory; the smallest if none does.

    The best is the one with the highest mean Dice where the sizes were measured on the same cases, of equal ones the
    smaller; otherwise the largest.

    The first time on a machine, up to two seconds are spent with measuring it.

    Args:
        family: packs of one task, largest first.
        volume: the scan.
        hardware: what the process may use.
        request: engine, precision, device and threads of the run; None leaves everything open.
        time_budget: seconds.
        mirroring: whether every window is run mirrored as well.
        entropy: whether the entropy is wanted.
        probabilities: number of structures whose probability is wanted.
        speed_of: tells how fast the machine is; None measures it
            (:class:`KDSegmentatorLib.advisor.calibration.Calibration`).
        region_packs: by the id of a pack, the one that is run before it; None if there are none.

    Raises:
        GeometryError: the volume would be empty or too large at the packs' spacing.
        InvalidSettingsError: the time budget or the number of threads is not positive.
        EngineUnavailableError: no size can be run with the engine, precision or device that was asked for.
        CancelledError: measuring was cancelled.
    """
    request = request or EngineRequest()
    _check(request, time_budget)
    options = RunOptions(mirroring=mirroring, entropy=entropy, probabilities=probabilities)
    estimator = _Estimator(hardware, request, options, speed_of or Calibration().speed, region_packs or {})
    sizes = estimator.sizes(family, volume)
    possible = [size for size in sizes if size.engine is not None or not _asked(request)]
    if not possible:
        raise EngineUnavailableError(f"{family.task} {sizes[-1].pack.manifest.size} {sizes[-1].obstacle}")
    free = [size for size in possible if size.obstacle is None]
    fast = [size for size in free if size.estimate.seconds <= time_budget]
    chosen = _best(fast) if fast else (free or possible)[-1]
    return Advice(
        pack=chosen.pack,
        estimate=chosen.estimate,
        reason=_reason(chosen, sizes, fast, time_budget, hardware),
        sizes=sizes,
    )


def memory_warning(
    pack: StudentPack,
    volume: Volume,
    hardware: Hardware,
    *,
    request: EngineRequest | None = None,
    options: RunOptions | None = None,
    region_pack: StudentPack | None = None,
) -> str | None:
    """Return a sentence if a pack is not expected to fit the available memory, otherwise None. Nothing is measured.

    Args:
        pack: the student.
        volume: the scan.
        hardware: what the process may use.
        request: engine, precision, device and threads of the run; None leaves everything open.
        options: what is wanted; None for nothing but labels.
        region_pack: is run before the pack; None if there is none.

    Raises:
        GeometryError: the volume would be empty or too large at the pack's spacing.
    """
    region_packs = {} if region_pack is None else {pack.manifest.id: region_pack}
    estimator = _Estimator(hardware, request or EngineRequest(), options or RunOptions(), _unknown_speed, region_packs)
    for crop in (False, True):  # looking for zeros round the scan takes a pass over it: only if it may matter
        estimate = estimator.of_pack(pack, volume, crop=crop).estimate
        if estimator.fits(estimate):
            return None
    needs = estimator.memory_obstacle(estimate)
    return (
        f"{pack.manifest.size} {needs}: it may fail or slow the computer down; a smaller size, if there is one, or "
        "fewer threads take less"
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one pack of a run takes, or all of them.

    Attributes:
        estimate: as if it were run alone.
        inside: seconds of it without start, reading and writing.
        kept: bytes that it holds on to while another pack is run after it.
        title: of the pack.
        engine: see :class:`SizeEstimate`, as for ``obstacle``.
        obstacle: why it cannot be run.
    """

    estimate: Estimate
    inside: float
    kept: int
    title: str
    engine: str | None
    obstacle: str | None


def _after(first: _Part, second: _Part) -> _Part:
    """Return what two chained packs take: the time of both, and the memory of the one that takes more."""
    early, late = first.estimate, second.estimate
    return replace(
        second,
        estimate=Estimate(
            seconds=late.seconds + first.inside,
            memory=max(early.memory, late.memory + first.kept),
            windows=early.windows + late.windows,
            measured=early.measured and late.measured,
        ),
        engine=None if first.engine is None else second.engine,
        obstacle=second.obstacle
        or (None if first.obstacle is None else f"needs {first.title}, which {first.obstacle}"),
    )


class _Estimator:
    """Estimates for one machine and one way to run.

    Args:
        hardware: what the process may use.
        request: engine, precision, device and threads.
        options: what is wanted.
        speed_of: tells how fast the machine is.
        region_packs: by the id of a pack, the one that is run before it.
    """

    def __init__(
        self,
        hardware: Hardware,
        request: EngineRequest,
        options: RunOptions,
        speed_of: SpeedOf,
        region_packs: Mapping[str, StudentPack],
    ) -> None:
        self._hardware = hardware
        self._request = request
        self._options = options
        self._speed_of = speed_of
        self._threads = request.threads or hardware.logical_cores
        self._region_packs = region_packs

    def sizes(self, family: Family, volume: Volume) -> tuple[SizeEstimate, ...]:
        """Return what every size of a family means for a volume."""
        works: list[tuple[Manifest, Workload]] = []
        return tuple(self.of_pack(pack, volume, works=works) for pack in family.packs)

    def of_pack(
        self,
        pack: StudentPack,
        volume: Volume,
        *,
        crop: bool = True,
        works: list[tuple[Manifest, Workload]] | None = None,
    ) -> SizeEstimate:
        """Return what a pack, with the one before it, means for a volume.

        Args:
            pack: the student.
            volume: the scan.
            crop: see :func:`KDSegmentatorLib.advisor.workload.workload`.
            works: what was found out about the volume for other packs; grows.
        """
        works = [] if works is None else works
        part = self._part(pack.manifest, self._work(pack.manifest, volume, works, crop=crop), self._options)
        if (earlier := self._region_packs.get(pack.manifest.id)) is not None:
            work = self._work(earlier.manifest, volume, works, crop=crop)
            part = _after(self._part(earlier.manifest, work, RunOptions()), part)
        obstacle = part.obstacle
        if obstacle is None and not self.fits(part.estimate):
            obstacle = self.memory_obstacle(part.estimate)
        return SizeEstimate(pack=pack, estimate=part.estimate, engine=part.engine, obstacle=obstacle)

    @staticmethod
    def _work(manifest: Manifest, volume: Volume, works: list[tuple[Manifest, Workload]], *, crop: bool) -> Workload:
        # sizes of a family mostly share the grid; finding it takes a pass over the volume
        work = next((known for other, known in works if same_work(other, manifest)), None)
        if work is None:
            work = workload(volume, manifest, crop=crop)
        works.append((manifest, work))
        return work

    def _part(self, manifest: Manifest, work: Workload, options: RunOptions) -> _Part:
        """Return what one pack takes."""
        found = find_candidates(manifest, self._request)
        candidate = found.usable[0] if found.usable else None
        costs = OPENVINO if candidate is None else ENGINE_COSTS[candidate.engine]
        precision = "float32" if candidate is None else candidate.precision
        speed = self._speed_of(candidate, self._request.threads)
        duration = run_duration(manifest, work, options, costs, precision, speed, self._threads)
        obstacle = None
        if candidate is None and _asked(self._request):
            obstacle = f"cannot be run here with {_asked(self._request)}: {'; '.join(found.left_out)}"
        return _Part(
            estimate=Estimate(
                seconds=duration.total,
                memory=peak_bytes(manifest, work, options, costs, precision, self._threads),
                windows=network_calls(manifest, work, options),
                measured=speed.measured,
            ),
            inside=duration.inside,
            kept=kept_bytes(manifest, work, options, costs, precision),
            title=manifest.id,
            engine=None if candidate is None else candidate.title,
            obstacle=obstacle,
        )

    def fits(self, estimate: Estimate) -> bool:
        """Return whether the available memory is enough, or unknown."""
        available = self._hardware.available_memory
        return available is None or estimate.memory <= MEMORY_FRACTION * available

    def memory_obstacle(self, estimate: Estimate) -> str:
        """Return what to say if it is not."""
        available = (self._hardware.available_memory or 0) / 1e9
        return f"needs about {estimate.memory / 1e9:.1f} GB of memory, {available:.1f} GB are available"


def _check(request: EngineRequest, time_budget: float) -> None:
    check_threads(request.threads)
    if not time_budget > 0:  # NaN neither
        raise InvalidSettingsError(f"the time budget must be more than 0 seconds, got {time_budget:g}")


def _asked(request: EngineRequest) -> str:
    """Return what was asked for, for example ``engine openvino, precision int8``; empty if everything was left open."""
    asked = (("engine", request.engine), ("precision", request.precision), ("device", request.device))
    return ", ".join(f"{name} {value}" for name, value in asked if value != AUTOMATIC)


def _best(sizes: Sequence[SizeEstimate]) -> SizeEstimate:
    """Return the size with the highest mean Dice, of equal ones the smallest; the largest if not comparable."""
    found = [size.pack.manifest.evaluation for size in sizes]
    measured = {(each.dataset, each.split, each.cases, each.mirroring) for each in found if each is not None}
    if len(measured) > 1 or None in found:
        return sizes[0]
    return max(reversed(sizes), key=_mean_dice)


def _mean_dice(size: SizeEstimate) -> float:
    evaluation = size.pack.manifest.evaluation
    return math.nan if evaluation is None else evaluation.mean_dice.mean


def _reason(
    chosen: SizeEstimate,
    sizes: tuple[SizeEstimate, ...],
    fast: Sequence[SizeEstimate],
    time_budget: float,
    hardware: Hardware,
) -> str:
    """Return why a size is advised, one sentence."""
    size, expected = chosen.pack.manifest.size, chosen.estimate
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
    elif expected.seconds <= time_budget:
        text = f"{size} is the largest size expected to finish within {time_budget:g} s"
    else:
        text = f"{size} is {smallest}; no size is expected to finish within {time_budget:g} s"
    cores = hardware.logical_cores
    on = f"{cores} logical core{'s' if cores > 1 else ''}"
    if hardware.available_memory is None:
        on += ", memory unknown"
    seconds = f"{expected.seconds:.1f}" if expected.seconds < _WHOLE_SECONDS else f"{expected.seconds:.0f}"
    parts = [f"{text} (estimated {seconds} s and {expected.memory / 1e9:.1f} GB on {on})"]
    larger = sizes[: sizes.index(chosen)]
    parts += [f"{each.pack.manifest.size} {each.obstacle}" for each in larger if each.obstacle is not None]
    if chosen.engine is None:
        parts.append("no engine is installed yet, so that the time is a guess")
    elif not expected.measured:
        parts.append("this machine could not be measured, so that the time is a guess")
    return "; ".join(parts)


def _unknown_speed(candidate: Candidate | None, threads: int | None) -> Speed:  # noqa: ARG001 - a SpeedOf
    return nominal_speed(1)

"""Finding out how fast this machine is, in two seconds, once.

No network of a pack is run for it: a teacher's window takes longer than that. Engines are timed with small networks of
four widths instead (:mod:`KDSegmentatorLib.advisor.trial_network`), whose rates hold for networks of any depth, window
and width (:func:`KDSegmentatorLib.advisor.duration.window_seconds`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from KDSegmentatorLib.advisor.array_speed import array_trial
from KDSegmentatorLib.advisor.engine_trial import engine_flops
from KDSegmentatorLib.advisor.speed import Speed, nominal_speed
from KDSegmentatorLib.engines.candidates import Candidate
from KDSegmentatorLib.engines.device_name import device_name
from KDSegmentatorLib.engines.loading import engine_version
from KDSegmentatorLib.errors import CancelledError, KDSegmentatorError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.machine.hardware import detect_hardware
from KDSegmentatorLib.machine.processor import processor_name
from KDSegmentatorLib.packs.locations import default_cache_folder
from KDSegmentatorLib.packs.strict_json import FieldError, Rule, Rules, build, parse
from KDSegmentatorLib.version import __version__

BUDGET_SECONDS = 2.0
"""Most time that one :class:`Calibration` spends with measuring; loading an engine's library is not counted."""

SHARE = 0.5
"""Most of the budget that one engine in one precision may take: sizes of a task may need two (int8 where it was
accepted, bfloat16 elsewhere)."""

DISTURBED_SECONDS = 3600.0
"""How long a measurement is kept that failed, or during which other programs used the processor."""

TRIALS = ((8, (64, 96, 128)), (16, (48, 64, 96)), (32, (32, 48, 64)), (96, (16, 24, 32)))
"""Channels, and edges of windows; see :func:`KDSegmentatorLib.advisor.engine_trial.engine_flops`.

16 is the width of an AVX-512 register: rates of narrower networks rise steeply to there, and little beyond."""

_DISTURBED = 1.25
"""Wall time as a multiple of processor time, from which on other programs use the processor."""

_RULES: Rules = {(Speed, "arrays"): Rule(above=0), (Speed, "flops"): Rule(above=0, min_items=1)}

_log = logging.getLogger(__name__)


class Calibration:
    """The speeds of this machine, measured when they are first asked for, then remembered on the disk.

    Args:
        cache: folder of the user's caches; None takes the default.
        cancelled: asked several times a second while an engine computes.
        budget: seconds for all measurements of this object.
    """

    def __init__(
        self,
        cache: Path | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        budget: float = BUDGET_SECONDS,
    ) -> None:
        self._folder = (cache or default_cache_folder()) / "speed"
        self._cancelled = cancelled
        self._most = SHARE * budget
        self._left = budget

    def speed(self, candidate: Candidate | None, threads: int | None) -> Speed:
        """Return how fast the machine is with one engine.

        Args:
            candidate: engine, device and precision; None if there is no engine.
            threads: as asked for; None leaves it to the engine.

        Returns:
            What was measured, now or earlier; a guess if there is no engine, it failed, or there was no time left. What
            there was no time for is measured when another calibration is asked.

        Raises:
            CancelledError: ``cancelled`` returned True.
        """
        key = _key(candidate, threads)  # loads the engine's library
        path = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        known = _read(path, key)
        if known is not None:
            return known
        start = time.perf_counter()
        hardware = detect_hardware()
        trial = array_trial()
        disturbed = trial.interruption > _DISTURBED
        lasting = not disturbed and (candidate is None or _device(candidate) is not None)
        guess = nominal_speed(threads or hardware.logical_cores, trial.speed)
        if candidate is None:
            return _kept(path, _Stored(key=key, disturbed=disturbed, speed=guess))
        if self._left <= 0:
            return guess
        cores = threads or hardware.physical_cores or hardware.logical_cores
        end = start + min(self._left, self._most)
        flops = self._flops(candidate, threads, cores if disturbed else None, end)
        self._left -= time.perf_counter() - start
        if flops is None:  # it failed: worth another try, later
            return _kept(path, _Stored(key=key, disturbed=True, speed=guess))
        if not flops:
            return guess
        return _kept(path, _Stored(key=key, disturbed=not lasting, speed=Speed(flops=flops, arrays=trial.speed)))

    def _flops(
        self, candidate: Candidate, threads: int | None, shared_cores: int | None, end: float
    ) -> tuple[tuple[int, float], ...] | None:
        """Return the rates at the widths that could be measured until ``end``; None if the engine failed."""
        found = []
        for number, (width, edges) in enumerate(TRIALS):
            now = time.perf_counter()
            until = now + (end - now) / (len(TRIALS) - number)
            try:
                rate = engine_flops(
                    candidate,
                    threads,
                    width,
                    edges,
                    until=until,
                    shared_cores=shared_cores if candidate.device == "cpu" else None,
                    cancelled=self._cancelled,
                )
            except CancelledError:
                raise
            except KDSegmentatorError as error:
                _log.warning("%s could not be timed: %s", candidate.title, error)
                return None
            if rate is not None:
                found.append((width, rate))
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A measurement on the disk.

    Attributes:
        key: what it depends on.
        disturbed: whether it failed, other programs used the processor meanwhile, or the device has no known name.
        speed: the result.
    """

    key: str
    disturbed: bool
    speed: Speed


def _key(candidate: Candidate | None, threads: int | None) -> str:
    """Return what a speed depends on: machine, engine with its version, device, threads, this library."""
    parts: list[str | int | None] = [processor_name(), detect_hardware().logical_cores, threads, __version__]
    if candidate is not None:
        parts += [candidate.engine, engine_version(candidate.engine), candidate.device, candidate.precision]
        if candidate.device != "cpu":
            parts.append(_device(candidate))
    return json.dumps(parts)


def _device(candidate: Candidate) -> str | None:
    return device_name(candidate.engine, candidate.device)


def _read(path: Path, key: str) -> Speed | None:
    """Return what was measured earlier; None if nothing was, it is out of date, or the file is damaged."""
    try:
        stored = build(_Stored, parse(path.read_text(encoding="utf-8")), _RULES, Rule())
        age = time.time() - path.stat().st_mtime
    except (OSError, ValueError, FieldError):
        return None
    widths = [width for width, _ in stored.speed.flops]
    outdated = stored.disturbed and not 0 <= age <= DISTURBED_SECONDS  # a file of the future, when clocks were set back
    if stored.key != key or widths != sorted(set(widths)) or outdated:
        return None
    return stored.speed


def _kept(path: Path, stored: _Stored) -> Speed:
    """Write down what was measured, and return it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path) as temporary:
            temporary.write_text(json.dumps(asdict(stored)), encoding="utf-8")
    except (OSError, KDSegmentatorError) as error:  # measured again next time
        _log.info("the speed of this machine could not be written down: %s", error)
    return stored.speed

"""Timing an engine with a small network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from KDSegmentatorLib.advisor.trial_network import trial_flops, trial_network
from KDSegmentatorLib.engines.candidates import Candidate
from KDSegmentatorLib.engines.loading import load_engine
from KDSegmentatorLib.errors import CancelledError

_BLOCKS = 2
_RUNS = 4
_SHORTEST_SECONDS = 0.01
_FEWER_CORES = 1.5
"""From this ratio on, a disturbed engine is taken to have waited for cores that other programs used."""


def engine_flops(
    candidate: Candidate,
    threads: int | None,
    width: int,
    edges: Sequence[int],
    *,
    until: float,
    shared_cores: int | None,
    cancelled: Callable[[], bool],
) -> float | None:
    """Return how many floating-point operations a second an engine makes at one width.

    Args:
        candidate: engine, device and precision.
        threads: as asked for; None leaves it to the engine.
        width: channels of the network.
        edges: of cubic windows in voxels; the first that takes long enough to be timed is taken.
        until: on ``time.perf_counter``; what is not done by then is broken off.
        shared_cores: cores that the engine would compute on, if other programs have a part of them: then the time that
            was computed, spread over those, counts where the wall time is much longer. None on a quiet machine.
        cancelled: asked several times a second.

    Returns:
        The rate; None if nothing was done in time.

    Raises:
        CancelledError: ``cancelled`` returned True.
        KDSegmentatorError: the engine failed.
    """
    rate = None
    for edge in edges:
        seconds = _window_seconds(candidate, threads, width, edge, until, shared_cores, cancelled)
        if seconds is None:
            break
        rate = trial_flops(width, _BLOCKS, edge**3) / seconds
        if seconds >= _SHORTEST_SECONDS:
            break
    return rate


def _window_seconds(
    candidate: Candidate,
    threads: int | None,
    width: int,
    edge: int,
    until: float,
    shared_cores: int | None,
    cancelled: Callable[[], bool],
) -> float | None:
    """Return the seconds of the fastest run after a first one, which gets the memory; the first if it is alone."""

    def stop() -> bool:
        return cancelled() or time.perf_counter() >= until

    if cancelled():
        raise CancelledError("cancelled; nothing was written")
    if stop():
        return None
    engine = load_engine(
        candidate.engine,
        trial_network(width, _BLOCKS, candidate.precision),
        patch_size=(edge, edge, edge),
        channels=width,
        precision=candidate.precision,
        device=candidate.device,
        threads=threads,
    )
    window = np.random.default_rng(0).normal(size=(1, width, edge, edge, edge)).astype(np.float32)
    seconds: list[float] = []
    try:
        for _ in range(1 + _RUNS):
            wall, computed = time.perf_counter(), time.process_time()
            engine.run(window, stop)
            elapsed, computed = time.perf_counter() - wall, time.process_time() - computed
            if shared_cores is not None and elapsed > _FEWER_CORES * computed / shared_cores > 0:
                elapsed = computed / shared_cores
            seconds.append(elapsed)
    except CancelledError:
        if cancelled():
            raise
    return min(seconds[1:] or seconds, default=None)

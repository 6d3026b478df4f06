"""How fast numpy is on this machine, as a multiple of the machine that the constants were measured on."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np

REFERENCE_SECONDS = 0.00182
"""What one repetition takes on the reference machine (:mod:`KDSegmentatorLib.advisor.duration`)."""

_REPEATS = 30
_PASSES = 8
_GROUPS, _FEATURES, _ROWS, _VOXELS = 32, 8, 14, 512


@dataclass(frozen=True, kw_only=True)
class ArrayTrial:
    """What a trial found.

    Attributes:
        speed: of numpy in one thread, as a multiple of the reference machine's.
        interruption: wall time as a multiple of processor time: 1 on a machine that does nothing else.
    """

    speed: float
    interruption: float


def array_trial() -> ArrayTrial:
    """Return the speed at what a run does outside its engine: weighted sums, small products, maxima; some 50 ms of it.

    Nothing is allocated meanwhile: how long the system takes for that changes from run to run. The fastest repetition
    counts, in time that the thread itself computed: so it matters less what else runs on the machine.
    """
    random = np.random.default_rng(0)
    features = random.normal(size=(_GROUPS, _FEATURES, _VOXELS)).astype(np.float32)
    head = random.normal(size=(_ROWS, _FEATURES)).astype(np.float32)
    weighted, sums = np.empty_like(features), np.zeros_like(features)
    logits = np.empty((_GROUPS, _ROWS, _VOXELS), dtype=np.float32)
    best = np.empty((_GROUPS, 1, _VOXELS), dtype=np.float32)
    found = np.empty(logits.shape, dtype=bool)
    walls, computed = [], []
    for _ in range(_REPEATS):
        wall, thread = time.perf_counter(), time.thread_time()
        for _ in range(_PASSES):
            np.multiply(features, features[0], out=weighted)
            np.add(sums, weighted, out=sums)
            np.matmul(head, sums, out=logits)
            logits.max(axis=1, keepdims=True, out=best)
            np.equal(logits, best, out=found)
        computed.append(time.thread_time() - thread)
        walls.append(time.perf_counter() - wall)
    if sys.platform == "win32":  # it counts a thread's time in steps of 16 ms
        return ArrayTrial(speed=REFERENCE_SECONDS / min(walls), interruption=1.0)
    return ArrayTrial(speed=REFERENCE_SECONDS / min(computed), interruption=sum(walls) / sum(computed))

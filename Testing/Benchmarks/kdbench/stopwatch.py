"""Processor and wall time of a call.

Processor time is that of all threads of the process: it hardly depends on what else the machine does, wall time does.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of processor and of wall time."""
    processor, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - wall

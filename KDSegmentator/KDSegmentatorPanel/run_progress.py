"""How far a run is: one share and one remaining time over all of its phases, which only move forward."""

from __future__ import annotations

import time
from collections.abc import Callable

from KDSegmentatorLib.jobs.messages import Progressed

_SHARES = {
    "load": 1.0,
    "region-preprocess": 0.5,
    "region-windows": 3.0,
    "region-restore": 0.5,
    "preprocess": 1.0,
    "windows": 12.0,
    "restore": 2.0,
    "write": 0.5,
}
"""What each phase takes of a run beyond its start, about; the estimate says how long the whole takes."""

_START = 1.0
"""What the start of a process takes, in the same unit; nothing where one waits."""

_TRUSTED = 0.1
"""From this share on, the pace of this run counts, and not only the estimate."""

_LATE = 1.3
_LATE_SECONDS = 2.0
"""A run is late when more than this is left than was last said: then no time is said, rather than a growing one."""


class RunProgress:
    """Turns what a job reports into a share from 0 to 1 and seconds.

    Args:
        runs: how many sizes are run one after the other.
        chained: whether another pack finds the region first.
        warm: whether a process waits, so that nothing has to be started.
        expected: seconds for all; None if there is no estimate.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        runs: int = 1,
        chained: bool = False,
        warm: bool = False,
        expected: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._start = clock()
        self._expected = expected
        shares = {stage: share for stage, share in _SHARES.items() if chained or not stage.startswith("region-")}
        total = runs * sum(shares.values()) + (0 if warm else _START)
        self._run = sum(shares.values()) / total
        self._begin = (0 if warm else _START) / total
        before = 0.0
        self._stages: dict[str, tuple[float, float]] = {}
        for stage, share in shares.items():
            self._stages[stage] = before, share / total
            before += share / total
        self._share = 0.0
        self._left: float | None = None
        self._late = False

    def take(self, event: Progressed) -> None:
        """Take over where the run is."""
        before, share = self._stages.get(event.stage, (0.0, 0.0))
        done = self._begin + event.run * self._run + before + share * event.done / max(event.total, 1)
        self._share = min(max(self._share, done), 1.0)

    @property
    def share(self) -> float:
        """What is done, from 0 to 1; between two reports the clock moves it a little, never past the next phase."""
        return self._share

    def seconds_left(self) -> float | None:
        """Return the time that is left, never more than was said before; None if nothing can be said."""
        elapsed = self._clock() - self._start
        total = self._expected
        if self._share >= _TRUSTED:
            pace = elapsed / self._share
            # the more is done, the more this run counts
            total = pace if total is None else total + (pace - total) * min(1.0, 2 * self._share)
        if total is None:
            return None
        left = max(total - elapsed, 0.0)
        if self._left is not None and left > _LATE * self._left + _LATE_SECONDS:
            self._late = True
        elif self._left is None or left <= self._left:
            self._left, self._late = left, False
        return None if self._late else self._left

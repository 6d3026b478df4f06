"""Progress, time left and cancelling: how long work talks to whoever waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from KDSegmentatorLib.errors import CancelledError

REGION_PREFIX = "region-"
"""How the names of the stages start while the earlier of two chained packs is run."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of the work.

    Attributes:
        stage: ``preprocess``, ``windows`` or ``restore``, for the earlier of two chained packs with
            :data:`REGION_PREFIX`; ``compare`` for a comparison.
        done: finished steps of the stage.
        total: steps of the stage.
        seconds_left: estimate for the stage, None while there is nothing to estimate from.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None


ProgressCallback = Callable[[Progress], None]
CancelCheck = Callable[[], bool]


Begin = Callable[[str, int], "Steps"]
"""Begins a stage, from its name and the number of its steps."""


class Steps:
    """Counts the steps of one stage, reports them, and stops the work when it was cancelled.

    Args:
        stage: name for :attr:`Progress.stage`.
        total: number of steps, >= 1.
        progress: called after every step and once before the first; None for nobody.
        cancel: asked at every step; None for never.
    """

    def __init__(self, stage: str, total: int, progress: ProgressCallback | None, cancel: CancelCheck | None) -> None:
        self.stage = stage
        self.total = total
        self.done = 0
        self._skipped = 0
        self._progress = progress
        self._cancel = cancel
        self._start = time.perf_counter()
        self._report(None)

    def cancelled(self) -> bool:
        """Return whether the caller wants the work to stop."""
        return self._cancel is not None and self._cancel()

    def check(self) -> None:
        """Stop if the work was cancelled.

        Raises:
            CancelledError: it was.
        """
        if self.cancelled():
            raise CancelledError("cancelled; nothing was written")

    def advance(self, steps: int = 1) -> None:
        """Count finished steps and report them.

        Raises:
            CancelledError: the work was cancelled.
        """
        self.done += steps
        worked = self.done - self._skipped
        elapsed = time.perf_counter() - self._start
        self._report(elapsed / worked * (self.total - self.done) if worked else None)
        self.check()

    def skip(self, steps: int) -> None:
        """Count and report steps for which nothing had to be done: they tell nothing of how long the others take.

        Raises:
            CancelledError: the work was cancelled.
        """
        self._skipped += steps
        self.advance(steps)

    def _report(self, seconds_left: float | None) -> None:
        if self._progress is not None:
            self._progress(Progress(stage=self.stage, done=self.done, total=self.total, seconds_left=seconds_left))


class RowSteps:
    """Rows that are restored while windows are run count with these; those after the last window are a stage, restore.

    Args:
        windows: steps of the windows.
        rows: to be restored.
        later: steps that follow the rows.
        begin: begins the stage.
    """

    def __init__(self, windows: Steps, rows: int, later: int, begin: Begin) -> None:
        self._windows, self._rows, self._later, self._begin = windows, rows, later, begin
        self._stage: Steps | None = None

    def restored(self, count: int) -> None:
        """Count finished rows.

        Raises:
            CancelledError: the work was cancelled.
        """
        if self._windows.done < self._windows.total:
            self._windows.check()
        else:
            self.stage().advance(count)
        self._rows -= count

    def stage(self) -> Steps:
        """Return the stage that follows the windows, begun when it is first asked for."""
        if self._stage is None:
            self._stage = self._begin("restore", self._rows + self._later)
        return self._stage

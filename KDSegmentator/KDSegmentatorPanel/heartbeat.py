"""How long the application does not answer while something happens: a timer that should tick every 10 ms."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import qt
import slicer

from KDSegmentatorPanel.choices import PairView

_INTERVAL_MILLISECONDS = 10


class LongestGap(NamedTuple):
    """The longest time without a tick during an action.

    Attributes:
        action: what was done.
        seconds: by the clock; other programs may have had the processor.
        busy_seconds: of it, that this thread computed: what the action itself is to blame for.
    """

    action: str
    seconds: float
    busy_seconds: float


class Heartbeat:
    """Measures the longest gaps.

    Args:
        wait: lets the application work until something has happened.
    """

    def __init__(self, wait: Callable[[Callable[[], bool]], None]) -> None:
        self.gaps: list[LongestGap] = []
        self._wait = wait
        self._last = (0.0, 0.0)
        self._longest = (0.0, 0.0)
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL_MILLISECONDS)
        self._timer.timeout.connect(self._tick)

    def during(self, action: str, begin: Callable[[], object], until: Callable[[], bool]) -> None:
        """Begin something, wait until it has happened, and keep its longest gap."""
        self._last, self._longest = _now(), (0.0, 0.0)
        self._timer.start()
        begin()
        self._tick()
        self._wait(until)
        self._tick()
        self._timer.stop()
        self.gaps.append(LongestGap(action, *self._longest))

    def table(self) -> str:
        """Return the gaps as a Markdown table, in milliseconds."""
        rows = ["| Action | longest gap (ms) | of it at work (ms) |", "|---|---:|---:|"]
        rows += [f"| {gap.action} | {1000 * gap.seconds:.0f} | {1000 * gap.busy_seconds:.0f} |" for gap in self.gaps]
        return "\n".join(rows)

    def _tick(self) -> None:
        now = _now()
        gap = now[0] - self._last[0], now[1] - self._last[1]
        self._longest = max(self._longest[0], gap[0]), max(self._longest[1], gap[1])
        self._last = now


def act_like_a_user(widget: Any, heart: Heartbeat, volume: Any) -> None:
    """Do everything in the panel that takes time, one thing after the other.

    Args:
        widget: the module's widget, with its panel open and at rest.
        heart: measures each.
        volume: the scan.
    """
    ui, parameters = widget.ui, widget.parameters

    def at_rest() -> bool:
        return not widget.busy

    def show_pair(number: int) -> None:
        ui.pairViewComboBox.setCurrentIndex(number)
        ui.showPairButton.setChecked(True)

    heart.during("choose a volume", lambda: setattr(parameters, "inputVolume", volume), at_rest)
    heart.during("segment", ui.segmentButton.click, at_rest)
    heart.during("show 3D", lambda: ui.show3DButton.setChecked(True), at_rest)
    if not ui.show3DButton.checked:
        raise RuntimeError("the surfaces are not shown")
    heart.during("run all sizes and compare", ui.compareAllButton.click, at_rest)
    heart.during("compare", ui.compareButton.click, at_rest)
    for number, view in enumerate(PairView):
        heart.during(f"show {view.value}", partial(show_pair, number), at_rest)
    heart.during("hide the pair", lambda: ui.showPairButton.setChecked(False), at_rest)
    heart.during("next difference", ui.nextPlaceButton.click, at_rest)
    heart.during("verify a model", ui.verifyPackButton.click, at_rest)
    heart.during("close the scene", lambda: slicer.mrmlScene.Clear(), at_rest)


def _now() -> tuple[float, float]:
    return time.monotonic(), time.thread_time()

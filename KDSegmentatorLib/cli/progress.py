"""Progress on a terminal: one line that changes, or a few lines where the output is kept."""

from __future__ import annotations

import time
from typing import TextIO

from KDSegmentatorLib.inference.progress import Progress

_STAGES = {
    "load": "Loading",
    "write": "Writing",
    "region-preprocess": "Region: preparing",
    "region-windows": "Region: segmenting",
    "region-restore": "Region: restoring",
    "preprocess": "Preparing",
    "windows": "Segmenting",
    "restore": "Restoring",
    "compare": "Comparing",
}
_TERMINAL_SECONDS = 0.1
_FILE_SECONDS = 10.0


class ProgressLine:
    """Shows progress; call it with every :class:`Progress`, and :meth:`clear` at the end.

    Args:
        stream: where to write. A terminal gets a single line that is rewritten, anything else a line for every stage
            and then one every ten seconds.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._stage = ""
        self._shown = 0.0
        self._width = 0

    def __call__(self, progress: Progress, before: str = "") -> None:
        """Show the progress, unless something was shown a moment ago; ``before`` begins the line."""
        now = time.monotonic()
        pause = _TERMINAL_SECONDS if self._terminal else _FILE_SECONDS
        if progress.stage == self._stage and now - self._shown < pause:
            return
        self._stage, self._shown = progress.stage, now
        text = before + describe(progress)
        if self._terminal:
            self._stream.write(f"\r{text:<{self._width}}")
            self._width = len(text)
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line away from a terminal."""
        if self._terminal and self._width:
            self._stream.write(f"\r{'':<{self._width}}\r")
            self._stream.flush()
            self._width = 0


def describe(progress: Progress) -> str:
    """Return progress in words, for example ``Segmenting 12/40, 8 s left``."""
    text = f"{_STAGES.get(progress.stage, progress.stage)} {progress.done}/{progress.total}"
    if progress.seconds_left is None or progress.done >= progress.total:
        return text
    return f"{text}, {describe_seconds(progress.seconds_left)} left"


def describe_seconds(seconds: float) -> str:
    """Return a duration for people: ``8 s``, ``2 min 05 s``, ``1 h 20 min``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

"""What a terminal shows and asks: progress on one line, tables of plain text, and Ctrl-C as a request to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from KDSegmentatorLib.errors import CancelledError
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


class OptionalStream:
    """A text stream whose words may be lost: what cannot be written (closed, read-only, a full disk) is dropped.

    Args:
        stream: where the words go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


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


def table(rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """Return rows as aligned columns, two blanks apart.

    Args:
        rows: texts of the same number of columns; the first row is usually the header.
        numbers: columns to align to the right.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if column in numbers else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class Interrupt:
    """Whether the user wants the work to stop."""

    def __init__(self) -> None:
        self._requested = False
        self._finishing = False

    def requested(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self._requested

    def check(self) -> None:
        """Stop if Ctrl-C was pressed.

        Raises:
            CancelledError: it was.
        """
        if self._requested:
            raise CancelledError("cancelled; nothing was written")

    def finish(self) -> None:
        """Stop if Ctrl-C was pressed; from now on it is ignored, for a last step that is short and must be whole.

        Raises:
            CancelledError: it was.
        """
        self._finishing = True  # first, so that no Ctrl-C falls between the two
        self.check()

    def receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        """Note the first Ctrl-C; a second one breaks off at once."""
        if self._finishing:
            return
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True


@contextmanager
def listening() -> Iterator[Interrupt]:
    """Turn Ctrl-C, or the request to end of a batch system, into a request for the duration of a block.

    A process that ignores such a signal goes on ignoring it.
    """
    interrupt = Interrupt()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = {number: handler for number, handler in previous.items() if handler not in (signal.SIG_IGN, None)}
    for number in heeded:
        signal.signal(number, interrupt.receive)
    try:
        yield interrupt
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)

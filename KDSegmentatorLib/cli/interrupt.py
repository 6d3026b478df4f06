"""Ctrl-C and SIGTERM as requests to stop: the work ends at its next step, with everything cleaned up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from KDSegmentatorLib.errors import CancelledError


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

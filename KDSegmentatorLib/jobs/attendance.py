"""Looking after a worker until nothing of it is left."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from KDSegmentatorLib.errors import JobError, KDSegmentatorError
from KDSegmentatorLib.jobs.events import Log, Progressed, RunChanged, Started
from KDSegmentatorLib.jobs.failures import worker_error
from KDSegmentatorLib.jobs.launcher import Child
from KDSegmentatorLib.jobs.lines import Broken, Complete, parse_line
from KDSegmentatorLib.jobs.request import CANCEL_NAME

GRACE_SECONDS = 1.0
"""How long a worker may take to stop by itself; nothing is lost when it is ended, results appear only when complete."""

ENDING_SECONDS = 5.0
"""How long a worker may take to end after it said that it is done."""

SILENCE_SECONDS = 1.0
"""How long the output of a worker that has ended may stay open: somebody else of its processes may be left."""

_POLL_SECONDS = 0.05


def attend(
    child: Child,
    folder: Path,
    cancelled: threading.Event,
    take: Callable[[Started | Log | Progressed | RunChanged], None],
) -> int | None:
    """Pass on what a worker says until it has ended; end it if it does not do so by itself.

    Args:
        child: the worker.
        folder: of the job.
        cancelled: set when it shall stop.
        take: called with every event.

    Returns:
        The exit code; None if it could not be ended.

    Raises:
        KDSegmentatorError: the worker gave up, with its own error; JobError if it speaks another version.
    """
    attendance = _Attendance(child, folder, take)
    try:
        attendance.run(cancelled)
    finally:
        child.end(attendance.worker)
        child.release()
    if attendance.error is not None:
        raise attendance.error
    return child.exit_code()


class _Attendance:
    def __init__(
        self, child: Child, folder: Path, take: Callable[[Started | Log | Progressed | RunChanged], None]
    ) -> None:
        self.worker: int | None = None
        self.error: KDSegmentatorError | None = None
        self._child = child
        self._folder = folder
        self._take = take
        self._deadline = float("inf")
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._silent = False

    def run(self, cancelled: threading.Event) -> None:
        """Return when the worker has ended, or does not even if it is ended."""
        threading.Thread(target=self._read, name="KDSegmentator job output", daemon=True).start()
        asked = ended = False
        while True:
            self._take_line()
            has_ended = self._child.exit_code() is not None
            if has_ended and self._silent:
                return
            if has_ended:
                self._wait_for(SILENCE_SECONDS)
            if self._silent:
                self._wait_for(ENDING_SECONDS)
            if cancelled.is_set() and not asked:
                asked = True
                with contextlib.suppress(OSError):
                    (self._folder / CANCEL_NAME).touch()
                self._wait_for(GRACE_SECONDS)
            if time.monotonic() >= self._deadline:
                if ended:
                    return
                ended = True
                self._child.end(self.worker)
                self._deadline = time.monotonic() + SILENCE_SECONDS

    def _read(self) -> None:
        try:
            for line in self._child.lines():
                self._lines.put(line)
        finally:
            self._lines.put(None)

    def _take_line(self) -> None:
        """Wait a moment for a line and pass it on."""
        try:
            line = self._lines.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return
        if line is None:
            self._silent = True
            return
        try:
            message = parse_line(line)
        except JobError as error:  # it speaks another version
            self.error = error
            self._wait_for(0)
            return
        if isinstance(message, Broken):
            self.error = self.error or worker_error(message.kind, message.message)
            self._wait_for(ENDING_SECONDS)
        elif isinstance(message, Complete):
            self._wait_for(ENDING_SECONDS)
        elif message is not None:
            if isinstance(message, Started):
                self.worker = message.pid
            self._take(message)

    def _wait_for(self, seconds: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)

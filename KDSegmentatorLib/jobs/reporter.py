"""How the worker talks to its owner."""

from __future__ import annotations

import logging
import os
import time
from typing import cast

from KDSegmentatorLib.inference.progress import Progress, ProgressCallback
from KDSegmentatorLib.jobs.messages import Log, LogLevel, Message, Progressed, RunChanged, RunState, Stage, format_line

_PAUSE_SECONDS = 0.1


class Reporter:
    """Writes messages to a file descriptor; an owner who has gone is no reason to fail.

    Args:
        descriptor: where to write.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, message: Message) -> None:
        """Write a message."""
        rest = format_line(message)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self._descriptor = os.open(os.devnull, os.O_WRONLY)

    def run(self, number: int, count: int, name: str) -> RunReporter:
        """Return what reports one run of several."""
        return RunReporter(self, number, count, name)


class RunReporter:
    """Reports one run: that it starts and ends, and its progress, ten times a second at most."""

    def __init__(self, reporter: Reporter, number: int, count: int, name: str) -> None:
        self._reporter = reporter
        self._number = number
        self._count = count
        self._name = name
        self._stage = ""
        self._sent = 0.0

    def changed(self, state: RunState, message: str = "") -> None:
        """Report that the run starts or ends."""
        self._reporter.send(
            RunChanged(run=self._number, runs=self._count, name=self._name, state=state, message=message)
        )

    @property
    def progress(self) -> ProgressCallback:
        """To be called with every :class:`Progress`."""
        return self._progressed

    def _progressed(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == self._stage and progress.done < progress.total and now - self._sent < _PAUSE_SECONDS:
            return
        self._stage, self._sent = progress.stage, now
        self._reporter.send(
            Progressed(
                run=self._number,
                runs=self._count,
                stage=cast("Stage", progress.stage),
                done=progress.done,
                total=progress.total,
                seconds_left=progress.seconds_left,
            )
        )


class LogSender(logging.Handler):
    """Sends what the library logs."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.INFO)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        level: LogLevel = "info"
        if record.levelno >= logging.WARNING:
            level = "error" if record.levelno >= logging.ERROR else "warning"
        try:
            message = self.format(record)
        except Exception:  # as all handlers do: a mistake in a log entry must not stop the work
            self.handleError(record)
            return
        self._reporter.send(Log(level=level, message=message))

"""Workers as their owner sees them: started, given jobs, kept for a next one, and ended with all of their processes."""

from __future__ import annotations

import atexit
import contextlib
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from KDSegmentatorLib.errors import JobError, KDSegmentatorError
from KDSegmentatorLib.io.files import delete_tree
from KDSegmentatorLib.jobs.folder import long_path, owned_folder
from KDSegmentatorLib.jobs.launcher import Child, Launcher, PythonLauncher
from KDSegmentatorLib.jobs.messages import (
    CANCEL_NAME,
    Broken,
    Complete,
    Job,
    Log,
    Progressed,
    RunChanged,
    Started,
    parse_line,
)

GRACE_SECONDS = 1.0
"""How long a worker may take to stop by itself; nothing is lost when it is ended, results appear only when complete."""

ENDING_SECONDS = 5.0
"""How long a worker may take to end after it said that it is done."""

SILENCE_SECONDS = 1.0
"""How long the output of a worker that has ended may stay open: somebody else of its processes may be left."""

_POLL_SECONDS = 0.05
_MARGIN_SECONDS = 2.0

_Take = Callable[[Started | Log | Progressed | RunChanged], None]


class Workers:
    """Starts workers, and keeps one that is done for a next job: it need not start, import and load engines again.

    A kept worker ends after some minutes, with this process however that ends, when memory gets short, and when
    :meth:`end` is called. Any thread may use it.

    Args:
        launcher: starts the process; None takes this process's own Python.
        temporary_folder: where the workers' folders are made; None takes the system's place for temporary files.
        keep_seconds: how long a worker waits for a next job; 0 ends each with its job.
    """

    def __init__(
        self, launcher: Launcher | None = None, temporary_folder: Path | None = None, *, keep_seconds: float = 0.0
    ) -> None:
        self.keep_seconds = keep_seconds
        self._launcher = launcher or PythonLauncher()
        self._temporary_folder = Path(tempfile.gettempdir()) if temporary_folder is None else temporary_folder
        self._lock = threading.Lock()
        self._waiting: Worker | None = None
        if keep_seconds:
            atexit.register(self.end)

    @property
    def warm(self) -> bool:
        """Whether a worker waits: the next job starts at once."""
        waiting = self._waiting
        return waiting is not None and waiting.is_usable(self.keep_seconds)

    def end(self) -> None:
        """End the worker that waits, if one does; jobs at work are not touched."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.end()

    @contextlib.contextmanager
    def worker(self, threads: int | None) -> Iterator[Worker]:
        """Give a worker for one job: the one that waits, if it has the same number of threads, or a new one."""
        with self._lock:
            worker, self._waiting = self._waiting, None
        if worker is not None and (worker.threads != threads or not worker.is_usable(self.keep_seconds)):
            worker.end()
            worker = None
        worker = worker or Worker(self._launcher, self._temporary_folder, threads)
        try:
            yield worker
        finally:
            worker.remove_job_folder()
            if self.keep_seconds and worker.is_usable(self.keep_seconds):
                with self._lock:
                    worker, self._waiting = self._waiting, worker
            if worker is not None:
                worker.end()


class WorkerGoneError(Exception):
    """A worker that had waited ended before it took the job."""


class Worker:
    """A process that does one job after another, and its folder."""

    def __init__(self, launcher: Launcher, temporary_folder: Path, threads: int | None) -> None:
        self.threads = threads
        self._closing = contextlib.ExitStack()
        self._folder = self._closing.enter_context(owned_folder(long_path(temporary_folder)))
        self._launcher = launcher
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._child: Child | None = None
        self._pid: int | None = None
        self._jobs = 0
        self._done_at: float | None = None
        self._silent = False
        self._error: KDSegmentatorError | None = None
        self._deadline = float("inf")

    def is_usable(self, keep_seconds: float) -> bool:
        """Return whether it waits for a job, and will for a moment longer."""
        waits = self._done_at is not None and time.monotonic() < self._done_at + keep_seconds - _MARGIN_SECONDS
        return waits and self._child is not None and self._child.exit_code() is None

    def new_job_folder(self) -> Path:
        """Make the folder of the next job."""
        self._jobs += 1
        folder = self._folder / str(self._jobs)
        folder.mkdir()
        return folder

    def remove_job_folder(self) -> None:
        """Remove the folder of the last job."""
        delete_tree(self._folder / str(self._jobs))

    def run(self, folder: Path, stay: float, cancelled: threading.Event, take: _Take) -> int | None:
        """Pass on what the worker says until the job is done; end the worker if it does not stop by itself.

        Args:
            folder: of the job.
            stay: how long the worker shall wait for a next job, in seconds; 0 waits until it has ended.
            cancelled: set when the job shall stop.
            take: called with every event.

        Returns:
            The exit code; None if it could not be ended, or goes on.

        Raises:
            KDSegmentatorError: the worker gave up, with its own error; JobError if it speaks another version.
        """
        new = self._child is None
        if self._child is None:
            self._child = self._launcher(self._folder)
            threading.Thread(target=self._read, name="KDSegmentator job output", daemon=True).start()
        self._done_at = None
        self._deadline = float("inf")
        started = False

        def note(event: Started | Log | Progressed | RunChanged) -> None:
            nonlocal started
            started = started or isinstance(event, Started)
            take(event)

        self._child.send(msgspec.json.encode(Job(folder=folder.name, stay=stay)) + b"\n")
        complete = self._attend(folder, bool(stay), cancelled, note)
        if complete and stay:
            self._done_at = time.monotonic()
            return None
        code = self._child.exit_code()
        self._end_process()
        if not (new or started or cancelled.is_set()):
            raise WorkerGoneError
        if self._error is not None:
            raise self._error
        return code if code is not None else self._child.exit_code()

    def end(self) -> None:
        """End the process with all of its processes, and remove its folder."""
        self._end_process()
        self._closing.close()

    def _end_process(self) -> None:
        self._done_at = None
        if self._child is not None:
            self._child.end(self._pid)
            self._child.release()

    def _attend(self, folder: Path, stays: bool, cancelled: threading.Event, take: _Take) -> bool:
        """Return whether the result is complete and the worker stays; False when it has ended, or does not end."""
        assert self._child is not None  # noqa: S101 - for mypy
        asked = ended = False
        while True:
            if self._take_line(take):
                if stays:
                    return True
                self._wait_for(ENDING_SECONDS)
            has_ended = self._child.exit_code() is not None
            if has_ended and self._silent:
                return False
            if has_ended:
                self._wait_for(SILENCE_SECONDS)
            if self._silent:
                self._wait_for(ENDING_SECONDS)
            if cancelled.is_set() and not asked:
                asked = True
                with contextlib.suppress(OSError):
                    (folder / CANCEL_NAME).touch()
                self._wait_for(GRACE_SECONDS)
            if time.monotonic() >= self._deadline:
                if ended:
                    return False
                ended = True
                self._child.end(self._pid)
                self._deadline = time.monotonic() + SILENCE_SECONDS

    def _read(self) -> None:
        assert self._child is not None  # noqa: S101 - for mypy
        try:
            for line in self._child.lines():
                self._lines.put(line)
        finally:
            self._lines.put(None)

    def _take_line(self, take: _Take) -> bool:
        """Wait a moment for a line and pass it on; return whether it says that the job is complete."""
        try:
            line = self._lines.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return False
        if line is None:
            self._silent = True
            return False
        try:
            message = parse_line(line)
        except JobError as error:  # it speaks another version
            self._error = error
            self._wait_for(0)
            return False
        if isinstance(message, Complete):
            return True
        if isinstance(message, Broken):
            self._error = self._error or message.error()
            self._wait_for(ENDING_SECONDS)
        elif message is not None:
            if isinstance(message, Started):
                self._pid = message.pid
            take(message)
        return False

    def _wait_for(self, seconds: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)


_MEMORY_HINT = (
    "Most often the computer's memory is too small for it: close other programs, take a smaller size of the task, or "
    "crop the volume"
)


def crash_error(exit_code: int | None) -> JobError:
    """Return the error to raise when a worker ended without a result.

    Args:
        exit_code: of the process, as in ``subprocess.Popen.returncode``; None if it had to be ended.
    """
    return JobError(
        f"the process of the segmentation stopped before it was done ({_exit_text(exit_code)}); nothing was changed. "
        f"{_MEMORY_HINT}"
    )


def _exit_text(exit_code: int | None) -> str:
    if exit_code is None:
        return "it did not answer any more"
    if exit_code < 0:
        try:
            return f"ended by the system, {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"ended by the system, signal {-exit_code}"
    if sys.platform == "win32" and exit_code > 0xFFFF:
        return f"exit code 0x{exit_code:08X}"
    return f"exit code {exit_code}"

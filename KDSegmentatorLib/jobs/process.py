"""A job as its owner sees it: started, polled, cancelled, never in the way."""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from KDSegmentatorLib.engines.memory_failure import memory_failure
from KDSegmentatorLib.errors import CancelledError, JobError, KDSegmentatorError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.attendance import attend
from KDSegmentatorLib.jobs.events import BatchFinished, Cancelled, End, Event, Failed, FailedSize, Log, Segmented
from KDSegmentatorLib.jobs.exchange import read_exchange, write_exchange
from KDSegmentatorLib.jobs.failures import crash_error, worker_error
from KDSegmentatorLib.jobs.launcher import Launcher, PythonLauncher
from KDSegmentatorLib.jobs.long_paths import long_path
from KDSegmentatorLib.jobs.owned_folder import owned_folder, remove_abandoned
from KDSegmentatorLib.jobs.request import INPUT_NAME, BatchRequest, SegmentRequest, write_request
from KDSegmentatorLib.jobs.stored import RESULT_NAME, StoredBatch, StoredSegmentation, read_stored, restored_run

_LOG_LINES = 100
_YIELDED_SECONDS = 0.002


def start_segmentation(
    request: SegmentRequest,
    volume: Volume | None = None,
    *,
    launcher: Launcher | None = None,
    temporary_folder: Path | None = None,
) -> JobProcess:
    """Start a segmentation in a process of its own and return at once.

    Args:
        request: what to do.
        volume: the scan, handed over in the job's folder; None if ``request.input`` names an image file. Its voxels
            must not be changed before the event :class:`~KDSegmentatorLib.jobs.events.Started` has come.
        launcher: starts the process; None takes this process's own Python.
        temporary_folder: where the job's folder is made; None takes the system's place for temporary files.

    Returns:
        The job. What is wrong with the request, too, comes as the event :class:`~KDSegmentatorLib.jobs.events.Failed`.
    """
    if volume is not None:
        request = replace(request, input=INPUT_NAME)
    return JobProcess(_Segmentation(request, volume), launcher, temporary_folder)


def start_batch(
    request: BatchRequest, *, launcher: Launcher | None = None, temporary_folder: Path | None = None
) -> JobProcess:
    """Start a batch in a process of its own and return at once; see :func:`start_segmentation`."""
    return JobProcess(_Batch(request), launcher, temporary_folder)


class _Work(Protocol):
    """What is to be done in a job's folder, besides letting the worker run."""

    def prepare(self, folder: Path) -> None:
        """Write the request and what belongs to it."""
        ...

    def result(self, folder: Path) -> End:
        """Return the result that the worker left."""
        ...

    def clean_up(self) -> None:
        """Remove what an ended worker left outside of the folder."""
        ...


class JobProcess:
    """A running job.

    All of the work, the waiting and the cleaning up is done by a thread of the job's own: no method but :meth:`wait`
    blocks. If the owner's process ends, the worker notices and stops; what is left behind is removed when the next job
    starts.

    Args:
        work: what to do.
        launcher: starts the process; None takes this process's own Python.
        temporary_folder: where the job's folder is made; None takes the system's place for temporary files.
    """

    def __init__(self, work: _Work, launcher: Launcher | None, temporary_folder: Path | None) -> None:
        self._work = work
        self._launcher = launcher or PythonLauncher()
        self._temporary_folder = Path(tempfile.gettempdir()) if temporary_folder is None else temporary_folder
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._cancelled = threading.Event()
        self._end: End | None = None
        self._thread = threading.Thread(target=self._run, name="KDSegmentator job", daemon=True)
        self._thread.start()

    def poll(self) -> list[Event]:
        """Return what happened since the last call, oldest first; the last event of a job is an ``End``.

        It gives the job's threads two milliseconds, which they need in 3D Slicer: the application keeps Python's lock
        while it waits for its user, and no other thread gets on. So it should be called ten times a second, until the
        end has come.
        """
        self._thread.join(_YIELDED_SECONDS)
        events = []
        with contextlib.suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        return events

    @property
    def running(self) -> bool:
        """Whether the job has not ended yet; once it has, its end is among the events."""
        return self._end is None

    def cancel(self) -> None:
        """Ask the worker to stop; a second later it is ended with all its processes. The end comes as an event."""
        self._cancelled.set()

    def wait(self, seconds: float | None = None) -> End | None:
        """Block until the job has ended and everything is cleaned up; events stay for :meth:`poll`.

        Args:
            seconds: how long to wait at most; None for as long as it takes.

        Returns:
            The end, or None if the job still runs.
        """
        self._thread.join(seconds)
        return self._end

    def _run(self) -> None:
        """Do everything, and end with exactly one end."""
        try:
            end = self._attended()
        except CancelledError:  # the system told the worker to end
            end = Cancelled()
        except KDSegmentatorError as error:
            end = self._failed(error)
        except MemoryError:
            end = self._failed(memory_failure("to hand the volume over"))
        except Exception as error:  # a defect; without an end the owner would wait for ever
            end = self._failed(JobError(f"the job failed unexpectedly ({type(error).__name__}: {error})"))
        end = Cancelled() if self._cancelled.is_set() else end
        self._events.put(end)
        self._end = end

    def _attended(self) -> End:
        with owned_folder(long_path(self._temporary_folder)) as folder:
            self._work.prepare(folder)
            if self._cancelled.is_set():
                return Cancelled()
            try:
                exit_code = attend(self._launcher(folder), folder, self._cancelled, self._take)
            finally:
                self._work.clean_up()
            if self._cancelled.is_set():
                return Cancelled()
            if not (folder / RESULT_NAME).exists():
                raise crash_error(exit_code)
            return self._work.result(folder)

    def _take(self, event: Event) -> None:
        if isinstance(event, Log):
            self._log.append(event.message)
        self._events.put(event)

    def _failed(self, error: KDSegmentatorError) -> Failed:
        return Failed(error=error, log=tuple(self._log))


class _Segmentation:
    def __init__(self, request: SegmentRequest, volume: Volume | None) -> None:
        self._request = request
        self._volume = volume

    def prepare(self, folder: Path) -> None:
        write_request(self._request, folder)
        if self._volume is not None:
            write_exchange(self._volume, folder / INPUT_NAME)
            self._volume = None

    def result(self, folder: Path) -> End:
        stored = read_stored(StoredSegmentation, folder / RESULT_NAME)
        return Segmented(
            results=tuple(restored_run(run, lambda name: read_exchange(folder / name)) for run in stored.runs),
            failures=tuple(
                FailedSize(size=failure.size, error=worker_error(failure.kind, failure.message))
                for failure in stored.failures
            ),
        )

    def clean_up(self) -> None:
        """Nothing: everything is in the job's folder."""


class _Batch:
    def __init__(self, request: BatchRequest) -> None:
        self._request = request

    def prepare(self, folder: Path) -> None:
        write_request(self._request, folder)

    def result(self, folder: Path) -> End:
        stored = read_stored(StoredBatch, folder / RESULT_NAME)
        return BatchFinished(files=stored.files, table=stored.table)

    def clean_up(self) -> None:
        remove_abandoned(long_path(Path(self._request.output_folder)))

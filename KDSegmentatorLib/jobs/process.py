"""A job as its owner sees it: started, polled, cancelled, never in the way."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from KDSegmentatorLib.errors import CancelledError, InsufficientMemoryError, JobError, KDSegmentatorError
from KDSegmentatorLib.jobs.folder import long_path, remove_abandoned
from KDSegmentatorLib.jobs.messages import (
    INPUT_NAME,
    RESULT_NAME,
    Advised,
    AdviseRequest,
    AnyRequest,
    BatchFinished,
    BatchRequest,
    Cancelled,
    End,
    Event,
    Failed,
    Log,
    Progressed,
    RunChanged,
    SegmentRequest,
    Started,
    write_request,
)
from KDSegmentatorLib.jobs.worker_process import WorkerGoneError, Workers, crash_error

if TYPE_CHECKING:
    from KDSegmentatorLib.geometry import Volume

_LOG_LINES = 100
_YIELDED_SECONDS = 0.002


def start_segmentation(
    request: SegmentRequest, volume: Volume | None = None, *, workers: Workers | None = None
) -> JobProcess:
    """Start a segmentation in a process of its own and return at once.

    Args:
        request: what to do.
        volume: the scan, handed over in the job's folder; None if ``request.input`` names an image file. Its voxels
            must not be changed before the event :class:`~KDSegmentatorLib.jobs.messages.Started` has come.
        workers: where the process comes from; None starts one for this job.

    Returns:
        The job. What is wrong with the request, too, comes as an event,
        :class:`~KDSegmentatorLib.jobs.messages.Failed`.

    Examples:
        >>> workers = Workers(keep_seconds=300)
        >>> job = start_segmentation(SegmentRequest(task="hippocampus", ...), volume, workers=workers)
        >>> while job.running:
        ...     events = job.poll()
        >>> workers.end()
    """
    if volume is not None:
        request = msgspec.structs.replace(request, input=INPUT_NAME)
    return JobProcess(request, volume, workers or Workers())


def start_batch(request: BatchRequest, *, workers: Workers | None = None) -> JobProcess:
    """Start a batch in a process of its own and return at once; see :func:`start_segmentation`."""
    return JobProcess(request, None, workers or Workers())


def start_advice(request: AdviseRequest, *, workers: Workers | None = None) -> JobProcess:
    """Start to find out what every size takes, in a process of its own, and return at once.

    With workers that are kept, the process waits afterwards for a segmentation, which then starts at once.
    """
    return JobProcess(request, None, workers or Workers())


class JobProcess:
    """A running job.

    All of the work, the waiting and the cleaning up is done by a thread of the job's own: no method but :meth:`wait`
    blocks. If the owner's process ends, the worker notices and stops; what is left behind is removed when the next job
    starts.

    Args:
        request: what to do.
        volume: to be handed over, or None.
        workers: where the process comes from.
    """

    def __init__(self, request: AnyRequest, volume: Volume | None, workers: Workers) -> None:
        self._request = request
        self._volume = volume
        self._workers = workers
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
            end = self._done()
        except CancelledError:  # the system told the worker to end
            end = Cancelled()
        except KDSegmentatorError as error:
            end = self._failed(error)
        except MemoryError:
            end = self._failed(InsufficientMemoryError("there is not enough memory to hand the volume over"))
        except Exception as error:  # a defect; without an end the owner would wait for ever
            end = self._failed(JobError(f"the job failed unexpectedly ({type(error).__name__}: {error})"))
        end = Cancelled() if self._cancelled.is_set() else end
        self._volume = None
        self._events.put(end)
        self._end = end

    def _done(self) -> End:
        while True:
            with self._workers.worker(self._request.options.threads) as worker:
                folder = worker.new_job_folder()
                write_request(self._request, folder)
                if self._volume is not None:
                    from KDSegmentatorLib.jobs.run import write_result

                    write_result(self._volume, folder / f"{INPUT_NAME}.json")
                if self._cancelled.is_set():
                    return Cancelled()
                try:
                    exit_code = worker.run(folder, self._workers.keep_seconds, self._cancelled, self._take)
                except WorkerGoneError:  # it had waited too long, and another one is started
                    continue
                finally:
                    if isinstance(self._request, BatchRequest):
                        remove_abandoned(long_path(Path(self._request.output_folder)))
                if self._cancelled.is_set():
                    return Cancelled()
                if not (folder / RESULT_NAME).exists():
                    raise crash_error(exit_code)
                from KDSegmentatorLib.jobs.run import read_result, read_segmented

                if isinstance(self._request, BatchRequest):
                    return read_result(BatchFinished, folder / RESULT_NAME)
                if isinstance(self._request, AdviseRequest):
                    return read_result(Advised, folder / RESULT_NAME)
                return read_segmented(folder)

    def _take(self, event: Started | Log | Progressed | RunChanged) -> None:
        if isinstance(event, Log):
            self._log.append(event.message)
        self._events.put(event)

    def _failed(self, error: KDSegmentatorError) -> Failed:
        return Failed(error=error, log=tuple(self._log))

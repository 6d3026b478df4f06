"""What a worker says while it is at a job: that it lives, how far it is; and what it hears: whether it shall go on."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import CancelledError
from KDSegmentatorLib.inference.progress import REGION_PREFIX, Progress
from KDSegmentatorLib.node.job import Job
from KDSegmentatorLib.node.queue import LeaseLostError, Queue

if TYPE_CHECKING:
    from typing_extensions import Self

LEASE_SECONDS = 30.0
"""A worker that gives no sign of life for so long is taken for dead; it gives one every two seconds."""

_EVERY_SECONDS = 2.0
_SHARES = {"preprocess": (0.0, 0.15), "windows": (0.15, 0.8), "restore": (0.95, 0.05)}
"""Where each stage begins and how much of the work it is, as a bar shows it; the first pack of a chain is one half."""

_log = logging.getLogger(__name__)


class SignsOfLife:
    """Renews a job's lease in a thread while the block runs, and ends the process if the job must not go on.

    Args:
        queue: that the job is of.
        job: as it was claimed.
        guard: asked with the seconds that the job takes so far for a reason to end this process; None to go on.
        end_process: ends it at once; the job has failed with the reason by then.
        stopping: whether the worker shall stop.
    """

    def __init__(
        self,
        queue: Queue,
        job: Job,
        guard: Callable[[float], str | None],
        end_process: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._queue = queue
        self._job = job
        self._guard = guard
        self._end_process = end_process
        self._stopping = stopping
        self._progress = 0.0
        self._chained = False
        self._lost = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"signs of life of job {job.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def lost(self) -> bool:
        """Return whether to stop: the job was superseded, withdrawn or given to another, or the worker shall end."""
        return self._lost.is_set() or self._stopping()

    def check(self) -> None:
        """Stop where :meth:`lost` says so.

        Raises:
            CancelledError: it does.
        """
        if self.lost():
            raise CancelledError("the job is not this worker's any more, or the worker shall end")

    def report(self, progress: Progress) -> None:
        """Take note of how far the segmentation is."""
        earlier = progress.stage.startswith(REGION_PREFIX)
        self._chained = self._chained or earlier
        start, share = _SHARES.get(progress.stage.removeprefix(REGION_PREFIX), (0.0, 0.0))
        done = start + share * progress.done / progress.total
        self._progress = (done if earlier else 1 + done) / 2 if self._chained else done

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            while not self._over.wait(_EVERY_SECONDS) and not self.lost():
                reason = self._guard(time.monotonic() - begun)
                if reason is not None:
                    self._queue.end_attempt(self._job, "failed", reason)
                    self._end_process()
                if not self._queue.renew(self._job, LEASE_SECONDS, self._progress):
                    self._lost.set()
        except LeaseLostError:
            self._lost.set()
        except sqlite3.Error as error:  # a full disk: the lease runs out, and the job is done again
            _log.error("the queue cannot be written (%s)", error)
            self._lost.set()
        finally:
            self._queue.close()

"""The running node: worker processes, and threads that take scans in, deliver results, and look after both."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from KDSegmentatorLib.errors import KDSegmentatorError, LockedError, NodeError
from KDSegmentatorLib.io.lock import locked
from KDSegmentatorLib.jobs.launcher import PythonLauncher
from KDSegmentatorLib.node.deliveries import Deliveries
from KDSegmentatorLib.node.delivery import TargetDelivery
from KDSegmentatorLib.node.orthanc import Intake, Orthanc
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.secret_files import read_secret
from KDSegmentatorLib.node.settings import Settings, Target
from KDSegmentatorLib.node.status_page import StatusPage
from KDSegmentatorLib.node.targets import sender
from KDSegmentatorLib.node.upkeep import Upkeep
from KDSegmentatorLib.node.watch_folder import WatchFolder
from KDSegmentatorLib.node.worker import LINE_PREFIX

_DELIVERY_SECONDS = 0.5
_UPKEEP_SECONDS = 10.0
_CLEAN_SECONDS = 600.0
_STEADY_SECONDS = 30.0
"""A worker that ends sooner is started again after a pause that grows."""

_LONGEST_PAUSE_SECONDS = 60.0
_ENDING_SECONDS = 15.0

_log = logging.getLogger(__name__)


class Service:
    """A node at work.

    Args:
        places: the node's folder.
        settings: read from it.

    Raises:
        KDSegmentatorError: the queue cannot be opened, or a secret not be read.
    """

    def __init__(self, places: Places, settings: Settings) -> None:
        places.check()
        self._places = places
        self._settings = settings
        self._stop = threading.Event()
        self._queue = Queue(places.queue)
        self._deliveries = Deliveries(self._queue)
        self._orthanc = connect(places, settings)

    def stop(self) -> None:
        """End the node; jobs at work are put back. Another thread or a signal may call this."""
        self._stop.set()

    def run(self) -> None:
        """Work until :meth:`stop`.

        Raises:
            NodeError: another process works on this folder, or the port of the status page is taken.
        """
        with self._alone(), self._page():
            threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in self._work()]
            for thread in threads:
                thread.start()
            _log.info("the node works with %d workers", self._settings.limits.workers)
            while not self._stop.wait(1.0):
                pass
            end = time.monotonic() + _ENDING_SECONDS
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))
            _log.info("the node has stopped")

    def _work(self) -> Iterator[tuple[str, Callable[[], None]]]:
        settings, places, queue = self._settings, self._places, self._queue
        for number in range(1, settings.limits.workers + 1):
            yield f"worker {number}", partial(self._keep_worker, f"worker-{number}")
        if settings.watch is not None:
            watched = WatchFolder(places.inside(settings.watch.folder), settings.watch.settled_seconds, settings, queue)
            yield "watched folder", self._repeated(watched.look, settings.watch.poll_seconds)
        if settings.orthanc is not None and self._orthanc is not None:
            intake = Intake(self._orthanc, settings, queue)
            yield "changes of Orthanc", self._repeated(intake.poll, settings.orthanc.poll_seconds)
            yield "series of Orthanc", self._repeated(intake.reconcile, settings.orthanc.reconcile_seconds)
        for target in settings.target:
            yield f"delivery to {target.name}", self._repeated(self._delivery(target).work, _DELIVERY_SECONDS)
        upkeep = Upkeep(places, settings, queue, self._orthanc)
        yield "upkeep", self._repeated(upkeep.look, _UPKEEP_SECONDS)
        yield "retention", self._repeated(upkeep.clean, _CLEAN_SECONDS)

    def _delivery(self, target: Target) -> TargetDelivery:
        set_up = self._settings.orthanc
        made = sender(target, self._places, set_up.aet if set_up else "KDSEG", self._settings.delivery.timeout_seconds)
        return TargetDelivery(
            target, made, self._queue, self._deliveries, self._places, self._settings.delivery, self._orthanc
        )

    def _repeated(self, work: Callable[[], object], seconds: float) -> Callable[[], None]:
        """Return what does some work again and again; True says that there is more to do at once.

        What goes wrong is said once, until it goes well again.
        """

        def repeat() -> None:
            said = ""
            while not self._stop.is_set():
                more: object = False
                try:
                    more = work()
                    said = ""
                except (KDSegmentatorError, OSError, sqlite3.Error) as error:
                    problem = error.strerror or "" if isinstance(error, OSError) else str(error)
                    if problem != said:
                        _log.error("%s: %s", threading.current_thread().name, problem)
                    said = problem
                except Exception as error:  # the node must not go on without this part of it
                    _log.error("%s: unexpected %s", threading.current_thread().name, type(error).__name__)
                if more is not True:
                    self._stop.wait(seconds)
            self._queue.close()

        return repeat

    def _keep_worker(self, name: str) -> None:
        """Start a worker, and again when it has ended, until the node stops."""
        launcher = PythonLauncher(
            command=("-m", "KDSegmentatorLib.node.worker", str(self._places.root.resolve()), name)
        )
        pause = 1.0
        while not self._stop.is_set():
            begun = time.monotonic()
            child = launcher(self._places.state)
            reading = threading.Thread(target=_log_lines, args=(child.lines(),), daemon=True)
            reading.start()
            while child.exit_code() is None and not self._stop.wait(0.1):
                pass
            if self._stop.is_set():
                child.release()
                reading.join(_ENDING_SECONDS)
                child.end(None)
                break
            code = child.exit_code()
            child.end(None)
            child.release()
            self._queue.expire(name)
            _log.warning("%s ended with the code %s and is started again", name, code)
            pause = 1.0 if time.monotonic() - begun > _STEADY_SECONDS else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            self._stop.wait(pause)
        self._queue.close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = locked(self._places.state / "node.lock", 0.0)
        try:
            lock.__enter__()
        except LockedError as error:
            raise NodeError(f"another kdseg-node works on {self._places.root} already; end it first") from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    @contextlib.contextmanager
    def _page(self) -> Iterator[None]:
        if not self._settings.page.port:
            yield
            return
        page = StatusPage(self._settings.page.port, self._queue, self._deliveries, self._settings)
        with page:
            _log.info("the status page is http://127.0.0.1:%d", page.port)
            yield


def connect(places: Places, settings: Settings) -> Orthanc | None:
    """Return the Orthanc of the settings, None without one; nothing is asked yet.

    Raises:
        InvalidSettingsError: its password cannot be read.
    """
    set_up = settings.orthanc
    if set_up is None:
        return None
    return Orthanc(set_up.url, set_up.user, read_secret(places.inside(set_up.password)))


def _log_lines(lines: Iterator[str]) -> None:
    for line in lines:
        if line.startswith(LINE_PREFIX):
            level, _, message = line.removeprefix(LINE_PREFIX).strip().partition(" ")
            _log.log(getattr(logging, level, logging.INFO), "%s", message)

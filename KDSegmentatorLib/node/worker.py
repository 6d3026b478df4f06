"""A worker: ``python -m KDSegmentatorLib.node.worker FOLDER NAME``, a process that does one job after another.

The node starts it again when it ends, so that a network or a decoder that crashes, or takes all of the memory, ends one
attempt at one job and nothing else. It ends when nobody holds the other end of its standard input any more.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.node.deliveries import Deliveries
from KDSegmentatorLib.node.job import Job
from KDSegmentatorLib.node.orthanc import Orthanc, OrthancFaultError
from KDSegmentatorLib.node.places import FETCHED, Places
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.scan import OrthancSeries
from KDSegmentatorLib.node.secret_files import read_secret
from KDSegmentatorLib.node.settings import Limits, Settings, read_settings

LINE_PREFIX = "kdseg-node "
"""What our own lines begin with. What libraries print may name files, and with that patients: it goes nowhere."""

ENDED_BY_GUARD = 3
_IDLE_SECONDS = 0.5
_DISK_SECONDS = 5.0
_STOP_SECONDS = 5.0
_NICENESS = 5

_log = logging.getLogger(__name__)


def main() -> int:
    """Do jobs until standard input is closed; return the exit code."""
    logging.basicConfig(stream=sys.stdout, level=logging.CRITICAL, format=LINE_PREFIX + "%(levelname)s %(message)s")
    logging.getLogger("KDSegmentatorLib.node").setLevel(logging.INFO)
    places, name = Places(Path(sys.argv[1])), sys.argv[2]
    if hasattr(os, "nice"):  # other programs go first
        os.nice(_NICENESS)
    stopping = threading.Event()
    threading.Thread(target=_watch_input, args=(stopping,), daemon=True).start()
    from KDSegmentatorLib.node.attempt import Attempts  # takes seconds, in which the node may end

    try:
        settings = read_settings(places.root)
        queue = Queue(places.queue)
        attempts = Attempts(
            places,
            settings,
            queue,
            Deliveries(queue),
            fetcher(places, settings),
            guard(settings.limits),
            lambda: os._exit(ENDED_BY_GUARD),
            name,
            stopping,
        )
    except KDSegmentatorError as error:
        _log.error("%s cannot start: %s", name, error)
        return 1
    while not stopping.is_set():
        try:
            if not attempts.do_next():
                stopping.wait(_IDLE_SECONDS)
        except sqlite3.Error as error:  # a full disk; the lease runs out, and the job is done again
            _log.error("the queue cannot be written (%s); free some space", error)
            stopping.wait(_DISK_SECONDS)
    return 0


def fetcher(places: Places, settings: Settings) -> Callable[[Job, OrthancSeries], Path]:
    """Return what brings a job's series from Orthanc into the job's folder.

    Raises:
        InvalidSettingsError: the password cannot be read.
    """
    set_up = settings.orthanc
    if set_up is None:

        def nowhere(job: Job, _: OrthancSeries) -> Path:
            raise OrthancFaultError(f"job {job.id} came from Orthanc, but the settings have no [orthanc] any more")

        return nowhere
    orthanc = Orthanc(set_up.url, set_up.user, read_secret(places.inside(set_up.password)))

    def fetch(job: Job, series: OrthancSeries) -> Path:
        return orthanc.fetch(series, places.job(job.id) / FETCHED)

    return fetch


def guard(limits: Limits) -> Callable[[float], str | None]:
    """Return what tells, from the seconds that a job takes so far, why this process must end; None if it need not.

    Args:
        limits: of time and memory.
    """
    process = psutil.Process()
    total = psutil.virtual_memory().total
    most = limits.memory_gb * 1e9 if limits.memory_gb else 0.9 * total

    def reason(seconds: float) -> str | None:
        if seconds > limits.job_minutes * 60:
            return f"it took longer than {limits.job_minutes:g} minutes ([limits] job_minutes)"
        used = process.memory_info().rss
        if used > most:
            return f"it took {used / 1e9:.1f} GB of memory ([limits] memory_gb); take a smaller size in the rule"
        return None

    return reason


def _watch_input(stopping: threading.Event) -> None:
    sys.stdin.buffer.read()  # until the node closes it, or ends
    stopping.set()
    time.sleep(_STOP_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())

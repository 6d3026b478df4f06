"""What has to be looked after while a node runs: the disk, a suspended queue, and what is kept too long."""

from __future__ import annotations

import logging
import shutil
import tempfile
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.io.files import delete_tree
from KDSegmentatorLib.node.models import problems
from KDSegmentatorLib.node.orthanc import Orthanc, OrthancFaultError
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.queue import Cause, Queue
from KDSegmentatorLib.node.scan import OrthancSeries, decode
from KDSegmentatorLib.node.settings import Limits, Settings

if TYPE_CHECKING:
    from KDSegmentatorLib.node.job import State

_GOOD: tuple[State, ...] = ("delivered", "confirmed", "superseded", "withdrawn")
_BAD: tuple[State, ...] = ("refused", "failed")
_DAY_SECONDS = 86400.0

_log = logging.getLogger(__name__)


class Upkeep:
    """Looks after a node.

    Args:
        places: the node's folder.
        settings: limits and retention.
        queue: is suspended and resumed.
        orthanc: None without one.
    """

    def __init__(self, places: Places, settings: Settings, queue: Queue, orthanc: Orthanc | None) -> None:
        self._places = places
        self._settings = settings
        self._queue = queue
        self._orthanc = orthanc

    def look(self) -> None:
        """Suspend the queue where the disk is too full; resume it where what it was suspended for is gone."""
        suspension = self._queue.suspension()
        full = disk_problem(self._places, self._settings.limits)
        if suspension is None:
            if full is not None:
                _log.error("the queue is suspended: %s", full)
                self._queue.suspend("disk", full)
            return
        if self._is_gone(suspension.cause, full):
            _log.info("the queue goes on: what it was suspended for is gone")
            self._queue.resume()

    def clean(self) -> int:
        """Delete the files of jobs that ended long ago, and their series in Orthanc; return how many."""
        retention = self._settings.retention
        now = self._queue.clock()
        ended = [
            job
            for states, days in ((_GOOD, retention.results_days), (_BAD, retention.failed_days))
            for job in self._queue.jobs(states)
            if now - job.changed > days * _DAY_SECONDS and self._queue.fact(f"cleaned {job.id}") is None
        ]
        at_work = {job.subject.rpartition(":")[0] for job in self._queue.open_jobs()}
        for job in ended:
            source = decode(job.source)
            if isinstance(source, OrthancSeries) and self._orthanc is not None and source.id not in at_work:
                try:
                    self._orthanc.delete_series(source.id)
                except OrthancFaultError as error:
                    _log.warning("%s", error)
                    continue
            delete_tree(self._places.job(job.id))
            self._queue.set_fact(f"cleaned {job.id}", "")
        return len(ended)

    def _is_gone(self, cause: Cause, full: str | None) -> bool:
        if cause == "disk":
            return full is None
        if cause == "pack":
            return not problems(self._settings, self._places.store(self._settings.packs))
        return cause == "orthanc" and self._orthanc_answers()

    def _orthanc_answers(self) -> bool:
        if self._orthanc is None:
            return True
        try:
            self._orthanc.get("/system")
        except KDSegmentatorError:
            return False
        return True


def disk_problem(places: Places, limits: Limits) -> str | None:
    """Return why no job can be begun for want of disk, None if there is enough."""
    try:
        disk = shutil.disk_usage(places.state)
        with tempfile.TemporaryFile(dir=places.state) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        return f"the disk of the node's folder cannot be written ({error.strerror}); look at space and permissions"
    if disk.free < limits.free_gb * 1e9:
        return (
            f"the disk of the node's folder has {disk.free / 1e9:.1f} GB left, less than [limits] free_gb = "
            f"{limits.free_gb:g}; free some space"
        )
    used = 100 * disk.used / (disk.used + disk.free)
    if used > limits.used_percent:
        return (
            f"the disk of the node's folder is {used:.0f} % full, more than [limits] used_percent = "
            f"{limits.used_percent:g}; free some space"
        )
    return None

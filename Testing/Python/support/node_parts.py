"""The parts of a node in one thread, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from KDSegmentatorLib.node.attempt import Attempts
from KDSegmentatorLib.node.deliveries import Deliveries
from KDSegmentatorLib.node.delivery import TargetDelivery
from KDSegmentatorLib.node.job import Job
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.service import connect
from KDSegmentatorLib.node.settings import Settings, read_settings
from KDSegmentatorLib.node.targets import sender
from KDSegmentatorLib.node.upkeep import Upkeep
from KDSegmentatorLib.node.watch_folder import WatchFolder
from KDSegmentatorLib.node.worker import fetcher


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Parts:
    """A node's parts.

    Args:
        places: a node's folder.
        clock: seconds since 1970.
    """

    def __init__(self, places: Places, clock: Callable[[], float] | None = None) -> None:
        self.places = places
        self.settings: Settings = read_settings(places.root)
        self.clock = clock or Clock()
        self.queue = Queue(places.queue, clock=self.clock)
        self.deliveries = Deliveries(self.queue)
        self.attempts = Attempts(places, self.settings, self.queue, self.deliveries, fetcher(places, self.settings))
        self.orthanc = connect(places, self.settings)
        self.targets = {
            target.name: TargetDelivery(
                target,
                sender(target, places, "KDSEG", 5.0),
                self.queue,
                self.deliveries,
                places,
                self.settings.delivery,
                self.orthanc,
            )
            for target in self.settings.target
        }
        self.upkeep = Upkeep(places, self.settings, self.queue, self.orthanc)
        if self.settings.watch is not None:
            self.watched = WatchFolder(
                places.inside(self.settings.watch.folder),
                self.settings.watch.settled_seconds,
                self.settings,
                self.queue,
            )

    @property
    def scans(self) -> Path:
        """The watched folder."""
        return self.watched.folder

    def take_in(self) -> int:
        """Look at the watched folder until what is in it has settled; return how many jobs were made."""
        made = self.watched.look()
        assert isinstance(self.clock, Clock)
        self.clock.now += 1
        return made + self.watched.look()

    def segment(self) -> None:
        """Do all jobs."""
        while self.attempts.do_next():
            pass

    def deliver(self) -> None:
        """Deliver what is due to every target."""
        for target in self.targets.values():
            while target.work():
                pass

    def job(self, number: int = 1) -> Job:
        """Return a job."""
        job = self.queue.get(number)
        assert job is not None
        return job

    @property
    def states(self) -> list[str]:
        """States of all jobs, the oldest first."""
        return [job.state for job in reversed(self.queue.jobs())]

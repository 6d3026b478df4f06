"""What the panel needs from the outside, so that tests can put something else in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.messages import AdviseRequest, BatchRequest, Event, Request, SegmentRequest
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import DamagedPack

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Job(Protocol):
    """A running job: :class:`KDSegmentatorLib.jobs.process.JobProcess`."""

    def poll(self) -> list[Event]:
        """Return what happened since the last call."""
        ...

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        ...

    def cancel(self) -> None:
        """Ask it to stop."""
        ...

    def wait(self, seconds: float | None = None) -> object:
        """Block until it has ended and cleaned up, or the time is over."""
        ...


class Jobs(Protocol):
    """Starts jobs in Slicer's Python (:mod:`KDSegmentatorLib.jobs.process`), all with the same kept worker."""

    @property
    def warm(self) -> bool:
        """Whether a process waits, so that none has to be started."""
        ...

    def segment(self, request: SegmentRequest, volume: Volume) -> Job:
        """Start a segmentation and return at once."""
        ...

    def advise(self, request: AdviseRequest) -> Job:
        """Start to find out how long sizes take and what memory they need, and return at once."""
        ...


class StartBatch(Protocol):
    """Starts a job: :func:`KDSegmentatorLib.jobs.process.start_batch` in Slicer's Python."""

    def __call__(self, request: BatchRequest) -> Job:
        """Start it and return at once."""
        ...


class Packs(Protocol):
    """The packs of this machine: :class:`KDSegmentatorLib.packs.store.PackStore`."""

    @property
    def user_folder(self) -> Path:
        """Where the user's packs are."""
        ...

    @property
    def shipped_folder(self) -> Path:
        """Where the packs are that came with the extension."""
        ...

    def packs(self) -> list[StudentPack]:
        """Return those that can be used."""
        ...

    def damaged(self) -> list[DamagedPack]:
        """Return those that cannot."""
        ...


class Choices(Protocol):
    """What the Segment box leaves to the Batch box: :class:`KDSegmentatorPanel.segment_panel.SegmentPanel`."""

    @property
    def settings(self) -> Request | None:
        """How volumes are segmented; None if no pack is installed."""
        ...

    @property
    def obstacle(self) -> str:
        """Why nothing can be segmented, whatever the volume; empty if it can."""
        ...


class Pending(Protocol[Result_co]):
    """A result that is being worked out: :class:`concurrent.futures.Future`."""

    def done(self) -> bool:
        """Return whether it is there."""
        ...

    def result(self) -> Result_co:
        """Return it, or raise what went wrong."""
        ...

    def cancel(self) -> bool:
        """Do not start it if it was not started."""
        ...


class Background(Protocol):
    """Works things out without holding up the user: :class:`KDSegmentatorPanel.background.BackgroundThread`."""

    def submit(self, function: Callable[[], Result], /) -> Pending[Result]:
        """Start working it out."""
        ...

    def close(self) -> None:
        """Begin nothing new, and end the thread."""
        ...

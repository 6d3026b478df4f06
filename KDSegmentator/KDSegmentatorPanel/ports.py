"""What the panel needs from the outside, so that tests can put something else in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.messages import BatchRequest, Event, Request, SegmentRequest
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import DamagedPack
from KDSegmentatorPanel.estimation import Answer, Question

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


class StartSegmentation(Protocol):
    """Starts a job: :func:`KDSegmentatorLib.jobs.process.start_segmentation` in Slicer's Python."""

    @property
    def warm(self) -> bool:
        """Whether a process waits, so that none has to be started."""
        ...

    def __call__(self, request: SegmentRequest, volume: Volume) -> Job:
        """Start it and return at once."""
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


class Estimate(Protocol):
    """Tells how long runs take and what memory they need: see :mod:`KDSegmentatorPanel.estimation`."""

    def __call__(self, question: Question) -> Answer:
        """Return the estimates; called in the background."""
        ...

    def stop(self) -> None:
        """End what is being worked out, from any thread; nobody wants it any more."""
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

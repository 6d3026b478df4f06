"""What stands around the panel in tests: a job that says what it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from KDSegmentatorLib.analysis.statistics import label_statistics
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.jobs.messages import BatchRequest, Cancelled, Event, Request, SegmentRequest
from KDSegmentatorLib.jobs.run import SizeResult
from KDSegmentatorLib.packs.pack import StudentPack
from support.mrml_scene import RECORD

Result = TypeVar("Result")


class FakeJob:
    """A job that has the events it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.cancelled = 0
        self.waited = 0
        self.running = True

    def poll(self) -> list[Event]:
        """Return what was put into ``events`` since the last call."""
        events, self.events = self.events, []
        return events

    def cancel(self) -> None:
        """Count."""
        self.cancelled += 1

    def wait(self, seconds: float | None = None) -> None:
        """Count, and have ended."""
        assert seconds is not None
        self.waited += 1
        self.running = False

    def end_cancelled(self) -> None:
        """End as a real job does after :meth:`cancel`."""
        assert self.cancelled
        self.events.append(Cancelled())


@dataclass
class FakeStart:
    """Starts fake jobs and remembers what was asked for."""

    jobs: list[FakeJob] = field(default_factory=list)
    requests: list[SegmentRequest] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)

    def __call__(self, request: SegmentRequest, volume: Volume) -> FakeJob:
        self.requests.append(request)
        self.volumes.append(volume)
        self.jobs.append(FakeJob())
        return self.jobs[-1]

    @property
    def job(self) -> FakeJob:
        """The last job."""
        return self.jobs[-1]


@dataclass
class FakeStartBatch:
    """Starts fake batches and remembers what was asked for."""

    jobs: list[FakeJob] = field(default_factory=list)
    requests: list[BatchRequest] = field(default_factory=list)

    def __call__(self, request: BatchRequest) -> FakeJob:
        self.requests.append(request)
        self.jobs.append(FakeJob())
        return self.jobs[-1]


class AtOnce:
    """Works things out in the caller's thread; ``later`` holds them back until :meth:`run`."""

    def __init__(self, *, later: bool = False) -> None:
        self._later = later
        self._waiting: list[Callable[[], None]] = []
        self.submitted = 0
        self.closed = False

    def submit(self, function: Callable[[], Result], /) -> Future[Result]:
        """Work it out, or keep it for :meth:`run`."""
        assert not self.closed
        self.submitted += 1
        future: Future[Result] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        if self._later:
            self._waiting.append(work)
        else:
            work()
        return future

    def close(self) -> None:
        """Take nothing any more."""
        self.closed = True

    def run(self) -> None:
        """Work out what was held back."""
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work()


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeChoices:
    """What the Segment box leaves to the Batch box."""

    settings: Request | None = None
    obstacle: str = ""


def size_result(
    pack: StudentPack, volume: Volume, *, labels: Sequence[int] = (1, 2), entropy: bool = False
) -> SizeResult:
    """Return a result of a pack on a volume's grid, in which these labels are present."""
    manifest = pack.manifest
    voxels = np.zeros(volume.voxels.shape, np.uint8)
    for value in labels:
        voxels[value : value + 2, 1:3, 1:4] = value
    found = volume.with_voxels(voxels)
    record = replace(RECORD, pack_id=manifest.id, task=manifest.task, size=manifest.size)
    return SizeResult(
        size=manifest.size,
        segmentation=Segmentation(
            volume=found,
            labels=manifest.labels,
            record=record,
            entropy=volume.with_voxels(voxels.astype(np.float32) / 3) if entropy else None,
        ),
        statistics=label_statistics(found, manifest.labels, volume),
        engine_reason="onnxruntime is exact",
        size_reason=None,
        peak_memory=None,
    )

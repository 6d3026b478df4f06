"""The Segment box without Qt: real packs and real MRML, injected jobs and estimates."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from msgspec.structs import replace as with_fields

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.advise import run_advise
from KDSegmentatorLib.jobs.messages import AdviseRequest, Event, Failed, Segmented, SegmentRequest, Started
from KDSegmentatorLib.mrml.surfaces import LabelLayer, Mesh, make_meshes
from KDSegmentatorLib.mrml.volumes import volume_from_node
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.segment_panel import SegmentPanel
from KDSegmentatorPanel.selection import SETTLE_SECONDS, Inputs
from KDSegmentatorPanel.surfaces import Surfaces
from support.known_runs import KnownRuns, past_run
from support.mrml_scene import TILTED, MrmlScene, placed
from support.panel_doubles import AtOnce, Clock, FakeJob, FakeStart, size_result

SHAPE = (20, 24, 18)


def no_memory(*_arguments: object, **_options: object) -> Any:
    raise MemoryError("Unable to allocate 1.9 GiB")


class _StartingJob(FakeJob):
    """A job whose process takes a while to start, if none waits."""

    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self._jobs = jobs

    def poll(self) -> list[Event]:
        if self.events and not self._jobs.warm:
            self._jobs.clock.now += self._jobs.start_seconds
        return super().poll()


class Jobs:
    """Segmentations that say what they are told, and advice on a computer where each pack ran once."""

    def __init__(self, start: FakeStart, clock: Clock) -> None:
        self.warm = False
        self.start = start
        self.clock = clock
        self.start_seconds = 0.5
        self.questions: list[AdviseRequest] = []
        self.error: KDSegmentatorError | None = None

    def segment(self, request: SegmentRequest, volume: Volume) -> FakeJob:
        return self.start(request, volume)

    def advise(self, request: AdviseRequest) -> FakeJob:
        self.questions.append(request)
        job = _StartingJob(self)
        packs = PackStore(request.user_packs, request.shipped_packs).packs()
        job.events += [Started(pid=7, version="0.1.0")]
        if self.error is not None:
            job.events += [Failed(error=self.error, log=())]
        else:
            job.events += [
                run_advise(
                    request, runs=KnownRuns(with_fields(past_run(pack, 0.01), loading_seconds=0.1) for pack in packs)
                )
            ]
        return job


class MeshesHere:
    """Surfaces made in this process."""

    def __call__(self, layers: list[LabelLayer]) -> dict[str, Mesh]:
        return make_meshes(layers)

    def stop(self) -> None:
        """There is nothing to stop."""


def scan(scale: float = 100.0, shift: float = 0.0) -> Volume:
    voxels = np.random.default_rng(3).gamma(2, scale, size=SHAPE).astype(np.float32) + shift
    return placed(voxels.astype(np.float32), "RAS", TILTED, (1.1, 0.9, 1.7))


@dataclass
class Panel:
    """The panel and what is around it."""

    panel: SegmentPanel
    start: FakeStart
    background: AtOnce
    jobs: Jobs
    clock: Clock
    packs: PackStore
    mrml: MrmlScene
    inputs: Inputs

    def choose(self, **inputs: Any) -> None:
        """Choose fields of the inputs, or of their options, and wait a moment."""
        self.change(**inputs)
        self.clock.now += SETTLE_SECONDS
        self.panel.poll()
        self.panel.poll()

    def change(self, **inputs: Any) -> None:
        """Choose fields of the inputs, or of their options."""
        own = {each.name for each in fields(Inputs)}
        options = {name: value for name, value in inputs.items() if name not in own}
        changed = {name: value for name, value in inputs.items() if name in own}
        self.inputs = replace(self.inputs, options=with_fields(self.inputs.options, **options), **changed)
        self.panel.update(self.inputs)

    def settle(self) -> None:
        """Let everything be found out that was held back."""
        while self.panel.busy:
            self.background.run()
            assert self.panel.poll()

    def pack(self, size: str = "x1/4") -> StudentPack:
        return self.packs.get(f"generated-{size.replace('/', '_')}")

    def result(self, *sizes: str, labels: tuple[int, ...] = (1, 2, 3), entropy: bool = False) -> Segmented:
        volume = volume_from_node(self.inputs.volume)
        found = tuple(size_result(self.pack(size), volume, labels=labels, entropy=entropy) for size in sizes)
        return Segmented(results=found, failures=())

    def end(self, *events: Any) -> None:
        """Let the job say this, and ask for advice anew if it has ended."""
        self.start.job.events += events
        assert self.panel.poll()
        for _ in range(3):  # it is asked, answered, and shown
            if not self.panel.makes_surfaces:
                self.panel.poll()


def empty_box(mrml: MrmlScene, packs: PackStore, *, later: bool = False) -> Panel:
    start, background = FakeStart(), AtOnce(later=later)
    clock = Clock()
    jobs = Jobs(start, clock)
    surfaces = Surfaces(MeshesHere(), AtOnce())
    panel = SegmentPanel(packs=packs, jobs=jobs, background=background, surfaces=surfaces, clock=clock)
    return Panel(panel, start, background, jobs, clock, packs, mrml, Inputs())

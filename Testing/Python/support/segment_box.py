"""The Segment box without Qt: real packs and real MRML, injected jobs and estimates."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from msgspec.structs import replace as with_fields

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.messages import Segmented
from KDSegmentatorLib.mrml.surfaces import LabelLayer, Mesh, make_meshes
from KDSegmentatorLib.mrml.volumes import volume_from_node
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.estimation import Answer, Question, estimate_here
from KDSegmentatorPanel.segment_panel import SegmentPanel
from KDSegmentatorPanel.selection import SETTLE_SECONDS, Inputs
from KDSegmentatorPanel.surfaces import Surfaces
from support.known_runs import KnownRuns, past_run
from support.mrml_scene import TILTED, MrmlScene, placed
from support.panel_doubles import AtOnce, Clock, FakeStart, size_result

SHAPE = (20, 24, 18)


def no_memory(*_arguments: object, **_options: object) -> Any:
    raise MemoryError("Unable to allocate 1.9 GiB")


class EstimateHere:
    """Estimates in this process, on a computer where each pack ran once."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.stopped = 0

    def __call__(self, question: Question) -> Answer:
        self.questions.append(question)
        packs = PackStore(question.user_packs, question.shipped_packs).packs()
        return estimate_here(question, KnownRuns(past_run(pack, 0.01) for pack in packs))

    def stop(self) -> None:
        self.stopped += 1


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
    estimate: EstimateHere
    clock: Clock
    packs: PackStore
    mrml: MrmlScene
    inputs: Inputs

    def choose(self, **inputs: Any) -> None:
        """Choose fields of the inputs, or of their options, and wait a moment."""
        self.change(**inputs)
        self.clock.now += SETTLE_SECONDS
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
        self.start.job.events += events
        assert self.panel.poll()


def empty_box(mrml: MrmlScene, packs: PackStore, *, later: bool = False) -> Panel:
    start, background = FakeStart(), AtOnce(later=later)
    estimate, clock = EstimateHere(), Clock()
    panel = SegmentPanel(
        packs=packs,
        start=start,
        estimate=estimate,
        background=background,
        surfaces=Surfaces(MeshesHere(), AtOnce()),
        clock=clock,
    )
    return Panel(panel, start, background, estimate, clock, packs, mrml, Inputs())

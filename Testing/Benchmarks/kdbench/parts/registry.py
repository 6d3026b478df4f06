"""All parts by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kdbench.parts import advisor, arithmetic, brain, classes, loss, paper, shipped, starting, surface, volumes
from kdbench.runner import Subject
from kdbench.setting import Setting

Stages = Callable[[Setting], Iterator[list[Subject]]]

PARTS: dict[str, Stages] = {
    "paper": paper.stages,
    "shipped": shipped.stages,
    "volumes": volumes.stages,
    "classes": classes.stages,
    "arithmetic": arithmetic.stages,
    "brain": brain.stages,
    "start": starting.stages,
    "advisor": advisor.stages,
    "surface": surface.stages,
    "loss": loss.stages,
}
"""Name to stages; the subjects of a stage take turns, the next stage may use what they left."""

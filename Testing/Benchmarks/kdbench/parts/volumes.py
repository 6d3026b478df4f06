"""Time and memory against the size of the volume: generated CTs, the paper's second family at a quarter width."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from kdbench.parts.ways import segmenting, ways
from kdbench.report.markdown import shape
from kdbench.runner import Subject
from kdbench.setting import Setting

SIZE = "x1/4"
LARGE_VOXELS = 70_000_000
"""Volumes from here on take long."""


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield the runs; the smallest volume fills the caches for all."""
    pack = setting.member(setting.scope.abdomen, SIZE)
    subjects = []
    for number, size in enumerate(setting.scope.ct_scans):
        scan = setting.ct_scan(size)
        written = shape(size)
        for way in ways(pack, engine="openvino"):
            subject = segmenting(
                setting,
                f"{written}, {way.title}",
                pack,
                scan,
                way,
                facts={"voxels": math.prod(size)},
                scan_size=written,
            )
            rounds = setting.long_rounds if math.prod(size) >= LARGE_VOXELS else setting.rounds
            subjects.append(replace(subject, warm_up=subject.warm_up and number == 0, rounds=rounds))
    yield subjects

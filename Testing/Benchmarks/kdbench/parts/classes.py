"""Time and memory against the number of classes: one body with heads of several sizes, one scan of one window."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.parts.ways import segmenting, ways
from kdbench.runner import Subject
from kdbench.setting import Setting

SIZE = "x1/4"


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield the runs."""
    scan = setting.brain_scan()
    source = setting.member(setting.scope.brain, SIZE)
    subjects = []
    for outputs in setting.scope.classes:
        pack = setting.with_other_head(source, outputs)
        for way in ways(pack, engine="openvino"):
            subjects.append(
                segmenting(
                    setting,
                    f"{outputs} classes, {way.title}",
                    pack,
                    scan,
                    way,
                    facts={"classes": outputs},
                    classes=str(outputs),
                )
            )
    yield subjects

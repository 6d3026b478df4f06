"""One skull-stripped brain from file to file, against the time of the network alone on one window."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.parts.ways import segmenting, ways
from kdbench.runner import Subject
from kdbench.setting import Setting

SIZE = "x1/4"


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield the runs from file to file and those of the body alone, which take turns."""
    scan = setting.stripped_brain()
    pack = setting.member(setting.scope.brain, SIZE)
    subjects = []
    for way in ways(pack, engine="openvino"):
        subjects.append(segmenting(setting, f"file to file, {way.title}", pack, scan, way, what="file to file"))
        subjects.append(
            Subject(
                name=f"body, {way.title}",
                function="kdbench.arithmetic:run_body",
                arguments={"pack": str(pack.folder), "precision": way.precision, "repeats": setting.scope.repeats},
                labels={"what": "body", "size": SIZE, "engine": way.engine, "precision": way.precision},
                rounds=setting.rounds,
                impossible=way.impossible,
            )
        )
    yield subjects

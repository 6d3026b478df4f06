"""The machine's peak, how much of it the x1/4 body reaches, and where the rest goes."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.parts.ways import ways
from kdbench.runner import Argument, Subject
from kdbench.setting import Setting

SIZE = "x1/4"


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield products, bodies and profiles of every number format, and the memory's speed."""
    pack = setting.member(setting.scope.brain, SIZE)
    scope = setting.scope
    subjects = [
        Subject(
            name="copy",
            function="kdbench.arithmetic:copy_memory",
            arguments={"size": scope.copied, "seconds": scope.seconds},
            labels={"what": "copy"},
            rounds=setting.rounds,
        )
    ]
    for way in ways(pack, engine="openvino"):
        body: dict[str, Argument] = {"pack": str(pack.folder), "precision": way.precision, "repeats": scope.repeats}
        product: dict[str, Argument] = {"precision": way.precision, "length": scope.matrix, "seconds": scope.seconds}
        for what, function, arguments in (
            ("product", "kdbench.arithmetic:multiply_matrices", product),
            ("body", "kdbench.arithmetic:run_body", body),
            ("profile", "kdbench.arithmetic:profile_body", body),
        ):
            subjects.append(
                Subject(
                    name=f"{what}, {way.precision}",
                    function=function,
                    arguments=arguments,
                    labels={"what": what, "size": SIZE, "engine": way.engine, "precision": way.precision},
                    rounds=setting.rounds,
                    impossible=way.impossible,
                )
            )
    yield subjects

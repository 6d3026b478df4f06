"""How far off the advisor is: its estimates beside what segmenting takes, for shipped packs and a large one."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.runner import Subject
from kdbench.setting import Setting

SIZE = "x1/4"


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield one subject: its process asks, and starts the others that segment."""
    packs = [*setting.shipped_packs(), setting.member(setting.scope.brain, SIZE)]
    scans = setting.cache.scans / "advisor"
    scans.mkdir(exist_ok=True)
    yield [
        Subject(
            name="advisor",
            function="kdbench.advising:ask_the_advisor",
            arguments={
                "packs": [str(pack.folder) for pack in packs],
                "scans": str(scans),
                "rounds": setting.long_rounds,
            },
            environment=setting.cache.environment,
        )
    ]

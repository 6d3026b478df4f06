"""Start-up of the command and import of the library."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.runner import Subject
from kdbench.setting import Setting

_TIMES_THE_ROUNDS = 3
"""These take a moment each, and vary most."""


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield the starts."""
    yield [
        Subject(
            name=name,
            function=f"kdbench.starting:{function}",
            labels={"what": name},
            rounds=_TIMES_THE_ROUNDS * setting.rounds,
            warm_up=setting.warm_up,
        )
        for name, function in (
            ("kdseg --help", "ask_for_help"),
            ("import KDSegmentatorLib", "import_library"),
            ("python -c pass", "do_nothing"),
        )
    ]

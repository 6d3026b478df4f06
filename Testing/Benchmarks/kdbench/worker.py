"""One measurement in a process of its own: ``python -m kdbench.worker RESULT MODULE:FUNCTION ARGUMENTS``.

Nothing is imported before the function's own module: what a subject imports is part of what it costs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from importlib import import_module
from pathlib import Path


def main(result: str, function: str, arguments: str) -> None:
    """Call a function and write what it measured, and what the process cost, as JSON.

    Args:
        result: the file to write.
        function: ``module:name``; returns a :class:`kdbench.results.Measured` or nothing.
        arguments: a JSON object, the function's keyword arguments.
    """
    _go_first_when_memory_runs_out()
    module, _, name = function.partition(":")
    inside = getattr(import_module(module), name)(**json.loads(arguments))

    from dataclasses import asdict

    from KDSegmentatorLib.machine.hardware import peak_memory

    times = os.times()
    content = {
        # with those of children that were waited for; Windows does not tell theirs
        "cpu_seconds": times.user + times.system + times.children_user + times.children_system,
        "peak_bytes": peak_memory(),
        "inside": {} if inside is None else asdict(inside),
    }
    Path(result).write_text(json.dumps(content), encoding="utf-8")


def _go_first_when_memory_runs_out() -> None:
    """Let Linux end this process, and what it starts, before anything else on the machine."""
    with contextlib.suppress(OSError):  # no such file elsewhere
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    main(*sys.argv[1:])

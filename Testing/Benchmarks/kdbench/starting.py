"""How long it takes to start: measured from outside, in processes started anew by the worker."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from kdbench.results import Measured

_IMPORT = "import time; start = time.perf_counter(); import KDSegmentatorLib; print(time.perf_counter() - start)"


def ask_for_help() -> Measured:
    """Return the ``seconds`` of ``kdseg --help``, from the process's start to its end."""
    script = Path(sys.executable).with_name("kdseg.exe" if sys.platform == "win32" else "kdseg")
    command = [str(script)] if script.is_file() else [sys.executable, "-m", "KDSegmentatorLib.cli.main"]
    return Measured(details={"seconds": _timed([*command, "--help"])[0]})


def import_library() -> Measured:
    """Return the seconds of ``import KDSegmentatorLib`` alone, and of the whole ``process`` that does it."""
    seconds, said = _timed([sys.executable, "-c", _IMPORT])
    return Measured(details={"seconds": float(said), "process": seconds})


def do_nothing() -> Measured:
    """Return the ``seconds`` of a Python that does nothing: the others cannot be faster."""
    return Measured(details={"seconds": _timed([sys.executable, "-c", "pass"])[0]})


def _timed(command: list[str]) -> tuple[float, str]:
    start = time.perf_counter()
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, finished.stdout

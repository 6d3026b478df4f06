"""The Python program that workers run in."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path


def python_executable() -> str:
    """Return the path of a Python with the packages of the one that runs.

    In Slicer that is ``PythonSlicer``, which sets the environment of an installed or built Slicer; Slicer puts it into
    ``sys.executable``, which is empty if Slicer was started without its launcher.

    Returns:
        An existing file; ``PythonSlicer`` if there is none, so that the error names what was looked for.
    """
    return next((path for path in _candidates() if Path(path).is_file()), "PythonSlicer")


def _candidates() -> Iterator[str]:
    if _is_python(sys.executable):
        yield sys.executable
    yield shutil.which("PythonSlicer") or ""
    own = Path(sys.exec_prefix)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if os.name == "nt":
        yield from (str(own / name) for name in ("python.exe", "bin/python.exe"))
    else:
        yield from (str(own / "bin" / f"python{suffix}") for suffix in (version, "3", ""))


def _is_python(path: str | None) -> bool:
    """Return whether a path is a Python and not the application that Python is embedded in."""
    return "python" in Path(path or "").name.lower()

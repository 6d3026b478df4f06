"""Paths of more than 259 characters on Windows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SAFE_LENGTH = 200
"""Temporary names beside a file are longer than its own."""

_PREFIX = "\\\\?\\"


def long_path(path: Path) -> Path:
    r"""Return a path that Windows opens also if it has more than 259 characters (``\\?\``); elsewhere the path."""
    if sys.platform != "win32" or len(str(path)) < _SAFE_LENGTH or str(path).startswith(_PREFIX):
        return path
    absolute = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links and mapped drives
    return Path(_PREFIX + "UNC" + absolute[1:] if absolute.startswith("\\\\") else _PREFIX + absolute)

"""What macOS tells about its machine."""

from __future__ import annotations

import subprocess
from functools import cache

_SYSCTL = "/usr/sbin/sysctl"


@cache
def read_sysctl(name: str) -> str:
    """Return what ``sysctl`` prints for a name or a branch of names: lines ``name: value``; empty if it fails."""
    try:
        report = subprocess.run([_SYSCTL, name], capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return report.stdout

"""The most memory this process has used so far."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak_memory() -> int | None:
    """Return the peak resident size of this process in bytes, None if the system does not tell."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":
        # not getrusage: its figure survives exec, and so includes the program that started this one
        try:
            return parse_status(Path("/proc/self/status").read_text(encoding="utf-8"))
        except OSError:
            return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def parse_status(text: str) -> int | None:
    """Return the peak resident size in bytes from Linux' ``/proc/self/status``."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None

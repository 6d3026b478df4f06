"""The processor's name, to keep what was measured on one machine apart from another's."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path


def processor_name() -> str:
    """Return the processor's name as the system gives it, with the architecture; never empty."""
    name = ""
    if sys.platform == "linux":
        try:
            name = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
        except OSError:
            name = ""
    return f"{name or platform.processor() or 'processor'} ({platform.machine() or 'unknown'})"


def parse_cpuinfo(text: str) -> str:
    """Return the model from Linux' ``/proc/cpuinfo``, with its numbers: names alone are shared by generations."""
    found = (re.search(rf"^{field}\s*: (.+)$", text, re.MULTILINE) for field in ("model name", "cpu family", "model"))
    return " ".join(match[1].strip() for match in found if match)

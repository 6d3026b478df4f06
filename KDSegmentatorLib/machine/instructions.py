"""Which instruction sets the processor has, of those that decide how fast a network runs; as the system tells.

Windows tells nothing of bfloat16 and AMX on x86. What the engines make of a processor is asked of them
(:mod:`KDSegmentatorLib.advisor.machine`).
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from KDSegmentatorLib.machine.sysctl import read_sysctl

INSTRUCTIONS = ("avx2", "avx512", "avx512_bf16", "amx", "neon", "bf16", "i8mm")
"""Names in the order they are listed; the last three are ARM's."""

_LINUX = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx",
    "asimd": "neon",
    "bf16": "bf16",
    "i8mm": "i8mm",
}
"""The kernel's name in ``/proc/cpuinfo`` to ours."""

_MACOS = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
}

_WINDOWS = {40: "avx2", 41: "avx512", 19: "neon", 66: "i8mm", 68: "bf16"}
"""Numbers of ``IsProcessorFeaturePresent`` (winnt.h, ``PF_..._INSTRUCTIONS_AVAILABLE``) to our names."""


@cache
def processor_instructions() -> tuple[str, ...]:
    """Return which of :data:`INSTRUCTIONS` the processor has; empty if the system does not tell."""
    if sys.platform == "linux":
        try:
            return parse_cpu_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return ()
    if sys.platform == "darwin":
        return parse_sysctl_options(read_sysctl("hw.optional"))
    if sys.platform == "win32":
        return windows_instructions(lambda number: bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(number)))
    return ()


def parse_cpu_flags(text: str) -> tuple[str, ...]:
    """Return the instruction sets from Linux' ``/proc/cpuinfo``: those that every processor has."""
    lines = re.findall(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    common = set.intersection(*(set(line.split()) for line in lines)) if lines else set()
    return _ordered({ours for name, ours in _LINUX.items() if name in common})


def parse_sysctl_options(text: str) -> tuple[str, ...]:
    """Return the instruction sets from macOS' ``sysctl hw.optional``: lines ``name: 1``."""
    present = set(re.findall(r"^(\S+): 1$", text, re.MULTILINE))
    return _ordered({ours for name, ours in _MACOS.items() if name in present})


def windows_instructions(is_present: Callable[[int], bool]) -> tuple[str, ...]:
    """Return the instruction sets of Windows.

    Args:
        is_present: IsProcessorFeaturePresent.
    """
    return _ordered({ours for number, ours in _WINDOWS.items() if is_present(number)})


def _ordered(found: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in INSTRUCTIONS if name in found)

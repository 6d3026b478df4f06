"""The most memory this process has used so far."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path


def peak_memory() -> int | None:
    """Return the peak resident size of this process in bytes, None if the system does not tell."""
    if sys.platform == "win32":
        return _windows_peak()
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


class ProcessMemoryCounters(ctypes.Structure):
    """Windows' PROCESS_MEMORY_COUNTERS."""

    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("QuotaPeakPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t),
        ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
        ("PagefileUsage", ctypes.c_size_t),
        ("PeakPagefileUsage", ctypes.c_size_t),
    )


if sys.platform == "win32":

    def _windows_peak() -> int | None:
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p  # a handle is as wide as a pointer
        measure = kernel.K32GetProcessMemoryInfo
        measure.argtypes = (ctypes.c_void_p, ctypes.POINTER(ProcessMemoryCounters), ctypes.c_uint32)
        counters = ProcessMemoryCounters()
        counters.cb = ctypes.sizeof(counters)
        worked = measure(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
        return int(counters.PeakWorkingSetSize) if worked else None

"""What this process may use of the machine, and used: cores, memory, processor; on Linux, macOS and Windows."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 says "no limit" with a number close to 2^63


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What this process may use.

    Attributes:
        logical_cores: hardware threads, >= 1.
        available_memory: bytes that can be had without swapping; None if the system does not tell.
        physical_cores: cores behind the hardware threads, <= ``logical_cores``; None if the system does not tell.
        total_memory: bytes that this process could have if nothing else ran: of the machine, its control groups and
            ``ulimit -v``; None if the system does not tell.
    """

    logical_cores: int
    available_memory: int | None
    physical_cores: int | None = None
    total_memory: int | None = None


def detect_hardware() -> Hardware:
    """Return what this process may use now; never fails, what is unknown is None."""
    logical = usable_cores()
    available, total = _memory()
    return Hardware(
        logical_cores=logical,
        available_memory=available,
        physical_cores=_physical_cores(logical),
        total_memory=total,
    )


def parse_cpu_quota(text: str) -> float | None:
    """Return the cores from cgroup v2's ``cpu.max`` ("quota period" in microseconds), None if unlimited."""
    found = re.fullmatch(r"(\d+) (\d+)", text.strip())
    if found is None or int(found[2]) == 0:
        return None
    return int(found[1]) / int(found[2])


def parse_memory_limit(limit: str, usage: str, statistics: str) -> int | None:
    """Return the bytes a cgroup may still take, None if it is unlimited.

    Args:
        limit: ``memory.max`` (v2) or ``memory.limit_in_bytes`` (v1).
        usage: ``memory.current`` or ``memory.usage_in_bytes``.
        statistics: ``memory.stat``; file pages that are not in use count as free, because the kernel drops them first.
    """
    try:
        most, used = int(limit), int(usage)
    except ValueError:  # "max"
        return None
    if most >= _UNLIMITED_BYTES:
        return None
    inactive = re.search(r"^(?:total_)?inactive_file (\d+)$", statistics, re.MULTILINE)
    return max(0, most - used + (int(inactive[1]) if inactive else 0))


def parse_cgroups(text: str, root: Path = _CGROUP_ROOT) -> list[tuple[Path, str]]:
    """Return the folders of a process's cgroups, from ``/proc/self/cgroup``, innermost first.

    Args:
        text: lines ``id:controllers:path``; no controllers in version 2.
        root: where cgroups are mounted.

    Returns:
        (folder, controller) with the controller ``""`` (version 2), ``cpu`` or ``memory`` (version 1); parents follow
        because their limits hold as well.
    """
    folders = []
    for line in text.splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        names = [""] if not controllers else [name for name in controllers.split(",") if name in ("cpu", "memory")]
        for name in names:
            folder = root / (controllers if name else "") / path.lstrip("/")
            while folder != root.parent and folder.is_relative_to(root):
                folders.append((folder, name))
                folder = folder.parent
    return folders


def windows_affinity(fill: Callable[[ctypes.c_size_t, ctypes.c_size_t], bool]) -> int | None:
    """Return the hardware threads that Windows ties this process to; None if it may use all of them.

    Args:
        fill: GetProcessAffinityMask; fills the process's and the system's mask and returns whether that worked. Both
            are 0 for a process in several processor groups, and tell of one group where there are more.
    """
    process, system = ctypes.c_size_t(0), ctypes.c_size_t(0)
    if not fill(process, system) or process.value in (0, system.value):
        return None
    return process.value.bit_count()


def usable_cores() -> int:
    """Return the hardware threads that this process may use: of the machine, its affinity and its cgroups; >= 1."""
    # what Python 3.13 counts heeds -X cpu_count as well, but no affinity on Windows
    cores = float(getattr(os, "process_cpu_count", os.cpu_count)() or 1)
    if sys.platform == "linux":
        cores = min(cores, len(os.sched_getaffinity(0)), *_linux_quotas())
    if sys.platform == "win32":
        cores = min(cores, windows_affinity(_fill_affinity) or cores)
    return max(1, math.floor(cores))


if sys.platform == "win32":

    def _fill_affinity(process: ctypes.c_size_t, system: ctypes.c_size_t) -> bool:
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p  # a handle is as wide as a pointer
        ask = kernel.GetProcessAffinityMask
        ask.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t))
        return bool(ask(kernel.GetCurrentProcess(), ctypes.byref(process), ctypes.byref(system)))


def _physical_cores(logical: int) -> int | None:
    import psutil

    known = psutil.cpu_count(logical=False)
    return None if known is None else min(known, logical)


def _memory() -> tuple[int | None, int | None]:
    """Return the bytes that are available now, and those that this process could have on an idle machine."""
    import psutil

    try:
        system = psutil.virtual_memory()
    except (OSError, RuntimeError, NotImplementedError):
        return None, None
    limits = [(system.available, system.total), *_linux_memory_limits()]
    return min(available for available, _ in limits), min(total for _, total in limits)


def _linux_quotas() -> list[float]:
    quotas = []
    for folder, controller in parse_cgroups(_read(Path("/proc/self/cgroup"))):
        if controller == "memory":
            continue
        text = (
            f"{_read(folder / 'cpu.cfs_quota_us').strip()} {_read(folder / 'cpu.cfs_period_us').strip()}"
            if controller
            else _read(folder / "cpu.max")
        )
        quota = parse_cpu_quota(text)
        if quota is not None:
            quotas.append(quota)
    return quotas


def _linux_memory_limits() -> list[tuple[int, int]]:
    """Return what is left of every limit of memory (control groups, ``ulimit -v``), and all of it, in bytes."""
    if sys.platform != "linux":
        return []
    limits = []
    for folder, controller in parse_cgroups(_read(Path("/proc/self/cgroup"))):
        if controller == "cpu":
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controller else ("memory.max", "memory.current")
        limit, usage = (_read(folder / name) for name in names)
        left = parse_memory_limit(limit, usage, _read(folder / "memory.stat"))
        if left is not None:
            limits.append((left, int(limit)))
    space = address_space()
    return limits if space is None else [*limits, space]


def address_space() -> tuple[int, int] | None:
    """Return what is left of the process's limit of address space (``ulimit -v``), and all of it, in bytes.

    None where there is no limit, and on other systems than Linux.
    """
    if sys.platform != "linux":
        return None
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _read(Path("/proc/self/statm")).partition(" ")[0]
    if most == resource.RLIM_INFINITY or not used:
        return None
    return max(0, most - int(used) * resource.getpagesize()), most


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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

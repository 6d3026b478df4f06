"""How many cores there are behind the hardware threads that this process may use."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from KDSegmentatorLib.machine.sysctl import read_sysctl

_TOPOLOGY = Path("/sys/devices/system/cpu")
_RELATION_PROCESSOR_CORE = 0
_RECORD_HEADER = struct.Struct("<II")  # DWORD Relationship, DWORD Size


def physical_cores() -> int | None:
    """Return the cores that this process may use; None if the system does not tell."""
    if sys.platform == "linux":
        return count_siblings(_siblings(cpu) for cpu in os.sched_getaffinity(0))
    if sys.platform == "darwin":
        return parse_physical_cpu(read_sysctl("hw.physicalcpu"))
    if sys.platform == "win32":
        return count_core_records(_windows_records())
    return None


def count_siblings(lists: Iterable[str]) -> int | None:
    """Return the cores from Linux' ``thread_siblings_list`` of every hardware thread; None if one is missing."""
    found = {text.strip() for text in lists}
    return None if not found or "" in found else len(found)


def parse_physical_cpu(text: str) -> int | None:
    """Return the cores from macOS' ``sysctl hw.physicalcpu``."""
    found = re.search(r"^hw\.physicalcpu: (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found and int(found[1]) > 0 else None


def count_core_records(records: bytes) -> int | None:
    """Return the cores from what Windows' GetLogicalProcessorInformationEx writes; None if it wrote nothing usable.

    Args:
        records: structures SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX, each with its length.
    """
    count = start = 0
    while start + _RECORD_HEADER.size <= len(records):
        relationship, length = _RECORD_HEADER.unpack_from(records, start)
        if length < _RECORD_HEADER.size:
            return None
        count += relationship == _RELATION_PROCESSOR_CORE
        start += length
    return count or None


def _siblings(cpu: int) -> str:
    try:
        return (_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


if sys.platform == "win32":

    def _windows_records() -> bytes:
        query = ctypes.windll.kernel32.GetLogicalProcessorInformationEx
        length = ctypes.c_uint32(0)
        query(_RELATION_PROCESSOR_CORE, None, ctypes.byref(length))  # fails, and tells how much room it needs
        buffer = ctypes.create_string_buffer(length.value)
        if not query(_RELATION_PROCESSOR_CORE, buffer, ctypes.byref(length)):
            return b""
        return buffer.raw[: length.value]

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from distillation import allocator

PROGRAM = """
import gc
import resource
import sys
from contextlib import nullcontext
import numpy as np
from distillation.allocator import kept_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

start = resident()
with kept_memory() if sys.argv[1] == "kept" else nullcontext():
    np.ones(16 << 20)
    before = faults()
    for _ in range(5):
        np.ones(16 << 20)  # 128 MB
    inside = faults() - before
print(inside, resident() - start)
"""
glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc knows how")


def run(how: str) -> tuple[int, int]:
    """Return page faults while arrays come and go, and how much larger the process is afterwards, in bytes."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    faults, grown = done.stdout.split()
    return int(faults), int(grown)


@glibc_only
def test_memory_is_taken_once_and_given_back_in_the_end() -> None:
    faults, grown = run("kept")
    assert faults < 0.1 * run("given back")[0]
    assert grown < 32 << 20


def test_other_libraries_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: object())  # has no mallopt
    with allocator.kept_memory():
        pass

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from distillation import allocator

FAULTS = """
import resource
import sys
import numpy as np
from distillation.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "kept":
    assert keep_freed_memory()
np.ones(16 << 20)
before = faults()
for _ in range(5):
    np.ones(16 << 20)  # 128 MB
print(faults() - before)
"""


def page_faults(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc knows how")
def test_memory_is_taken_once() -> None:
    assert page_faults("kept") < 0.1 * page_faults("given back")


def test_other_libraries_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: object())  # has no mallopt
    assert not allocator.keep_freed_memory()

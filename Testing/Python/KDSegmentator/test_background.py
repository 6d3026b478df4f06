from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from KDSegmentatorPanel.background import BackgroundThread

MODULE = Path(__file__).parents[3] / "KDSegmentator"


def test_one_after_the_other() -> None:
    background = BackgroundThread("test")
    order: list[int] = []
    futures = [background.submit(lambda number=number: order.append(number) or number) for number in range(5)]
    assert [future.result(10) for future in futures] == order == list(range(5))


def test_errors_come_with_the_result_and_end_nothing() -> None:
    background = BackgroundThread("test")

    def fail() -> None:
        raise MemoryError

    failed = background.submit(fail)
    with pytest.raises(MemoryError):
        failed.result(10)
    assert background.submit(lambda: 7).result(10) == 7


def test_what_was_cancelled_is_not_started() -> None:
    background = BackgroundThread("test")
    go_on = threading.Event()
    first = background.submit(go_on.wait)
    started: list[int] = []
    second = background.submit(lambda: started.append(1))
    assert second.cancel()
    go_on.set()
    assert first.result(10)
    background.submit(lambda: None).result(10)
    assert not started


def test_close_ends_the_thread_after_its_work() -> None:
    background = BackgroundThread("KDSegmentator test of closing")
    go_on = threading.Event()
    last = background.submit(go_on.wait)
    background.close()
    background.close()
    go_on.set()
    assert last.result(10)
    (*threads,) = (each for each in threading.enumerate() if each.name == "KDSegmentator test of closing")
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        background.submit(lambda: None)


def test_what_is_done_is_let_go_of() -> None:
    """The work holds a copy of a volume: it must not stay until the next one comes."""
    background = BackgroundThread("test")

    class Voxels:
        pass

    voxels = Voxels()
    gone = threading.Event()
    weakref.finalize(voxels, gone.set)
    background.submit(lambda voxels=voxels: None).result(10)
    del voxels
    assert gone.wait(10)


def test_python_does_not_wait_for_it() -> None:
    code = """
import time
from KDSegmentatorPanel.background import BackgroundThread
BackgroundThread("test").submit(lambda: time.sleep(600))
time.sleep(0.2)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=MODULE, timeout=60, check=False)
    assert done.returncode == 0

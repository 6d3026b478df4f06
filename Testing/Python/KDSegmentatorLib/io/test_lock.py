from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import LockedError
from KDSegmentatorLib.io.lock import locked

HOLDER = """
import sys, time
from pathlib import Path
from KDSegmentatorLib.io.lock import locked
with locked(Path(sys.argv[1]), 5):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(LockedError, match=r"another process is at work in .* try again"), locked(path, 0.2):
            raise AssertionError
        holder.kill()
        holder.wait()
        with locked(path, 5):
            pass


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    inside = []
    most = []

    def work() -> None:
        for _ in range(5):
            with locked(tmp_path / ".lock", 30):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 20
    assert max(most) == 1


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / ".lock", 0):
        raise ZeroDivisionError
    with locked(tmp_path / ".lock", 0):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="fcntl is not on Windows")
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(LockedError, match="file system without locks"),
        locked(tmp_path / "l", 0),
    ):
        raise AssertionError

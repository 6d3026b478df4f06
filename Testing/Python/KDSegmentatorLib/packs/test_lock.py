from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs import lock
from KDSegmentatorLib.packs.lock import locked

HOLDER = """
import sys, time
from pathlib import Path
from KDSegmentatorLib.packs.lock import locked
with locked(Path(sys.argv[1]), 5):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(PackError, match=r"another process is changing the packs .* try again"), locked(path, 0.2):
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
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with pytest.raises(PackError, match=r"file system without locks .*KDSEGMENTATOR_PACKS"), locked(tmp_path / "l", 0):
        raise AssertionError


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has the real thing")
def test_the_windows_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module as it is on Windows, with msvcrt's byte-range lock played by a set of locked files."""
    held: set[int] = set()
    msvcrt = types.ModuleType("msvcrt")

    def locking(descriptor: int, mode: int, length: int) -> None:
        assert length == 1
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        file = os.fstat(descriptor).st_ino
        if mode == 0:
            held.remove(file)
        elif file in held:
            raise PermissionError(errno.EACCES, "Permission denied")
        else:
            held.add(file)

    msvcrt.LK_NBLCK, msvcrt.LK_UNLCK, msvcrt.locking = 2, 0, locking  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(sys, "platform", "win32")
    spec = importlib.util.spec_from_file_location("windows_lock", lock.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.locked(tmp_path / ".lock", 0):
        assert held
        with pytest.raises(PackError, match="another process"), module.locked(tmp_path / ".lock", 0.1):
            raise AssertionError
    assert not held
    with module.locked(tmp_path / ".lock", 0):
        pass

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import JobError, PackError
from KDSegmentatorLib.jobs import owned_folder as module
from KDSegmentatorLib.jobs.owned_folder import owned_folder, remove_abandoned

CRASHING = """
import os, sys
from pathlib import Path
from KDSegmentatorLib.jobs.owned_folder import owned_folder
with owned_folder(Path(sys.argv[1])) as folder:
    (folder / "scan").write_text("patient")
    os._exit(3)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def crash_in(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRASHING, str(folder)], timeout=120, check=False)
    assert done.returncode == 3
    assert len(names(folder)) == 2


def test_it_is_there_and_goes_away(tmp_path: Path) -> None:
    with owned_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text("x", encoding="utf-8")
        assert len(names(tmp_path)) == 2
    assert names(tmp_path) == []


def test_it_goes_away_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), owned_folder(tmp_path) as folder:
        (folder / "file").write_text("x", encoding="utf-8")
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="folders of temporary files are private by themselves on Windows")
def test_nobody_else_may_look_into_it(tmp_path: Path) -> None:
    with owned_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700


def test_what_a_crashed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    crash_in(tmp_path)
    left = set(names(tmp_path))
    with owned_folder(tmp_path):
        assert not left & set(names(tmp_path))
    assert names(tmp_path) == []


def test_what_lives_is_left_alone(tmp_path: Path) -> None:
    with owned_folder(tmp_path) as first:
        remove_abandoned(tmp_path)
        with owned_folder(tmp_path) as second:
            assert first.is_dir()
            assert second.is_dir()
        assert first.is_dir()
    assert names(tmp_path) == []


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    for name in (".kdseg-job-of-mine", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other.lock").touch()
    with owned_folder(tmp_path):
        pass
    assert names(tmp_path) == [".kdseg-job-of-mine", "other", "other.lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such owner on Windows")
def test_what_another_user_left_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash_in(tmp_path)
    left = names(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == left


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "patients"
    other.mkdir()
    (other / "file").touch()
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / ".kdseg-job-1.lock").touch()
    (jobs / ".kdseg-job-1").symlink_to(other)
    remove_abandoned(jobs)
    assert names(other) == ["file"]


def test_a_lock_that_is_taken_for_abandoned_too_early_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.locked
    taken: list[Path] = []

    @contextlib.contextmanager
    def slow(path: Path, seconds: float) -> Iterator[None]:
        if not taken:  # another process cleans up between the making of the file and its locking
            taken.append(path)
            yield
        else:
            with original(path, seconds):
                yield

    monkeypatch.setattr(module, "locked", slow)
    with owned_folder(tmp_path) as folder:
        assert names(tmp_path) == [folder.name, folder.name + ".lock"]
        assert taken != [folder.with_name(folder.name + ".lock")]
    assert names(tmp_path) == []


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def locked(path: Path, seconds: float) -> Iterator[None]:
        path.touch()
        raise PackError("no locks")
        yield

    monkeypatch.setattr(module, "locked", locked)
    with owned_folder(tmp_path) as first, owned_folder(tmp_path):
        assert first.is_dir()
    assert names(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, mode: int = 0) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(JobError, match="the disk is full"), owned_folder(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="missing cannot be written"), owned_folder(tmp_path / "missing"):
        pass

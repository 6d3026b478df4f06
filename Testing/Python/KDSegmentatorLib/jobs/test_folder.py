from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from KDSegmentatorLib.errors import JobError, LockedError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs import folder as module
from KDSegmentatorLib.jobs.folder import (
    long_path,
    owned_folder,
    read_array,
    remove_abandoned,
    storage_error,
    write_array,
)
from KDSegmentatorLib.jobs.run import read_result, write_result

CRASHING = """
import os, sys
from pathlib import Path
from KDSegmentatorLib.jobs.folder import owned_folder
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
        raise LockedError("no locks")
        yield

    monkeypatch.setattr(module, "locked", locked)
    with owned_folder(tmp_path) as first, owned_folder(tmp_path):
        assert first.is_dir()
    assert names(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, mode: int = 0, **options: bool) -> None:
        if not path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(JobError, match="the disk is full"), owned_folder(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="missing cannot be written"), owned_folder(tmp_path / "missing"):
        pass


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "uint16", "int64", "float32", "float64"])
def test_a_volume_comes_back_as_it_was(tmp_path: Path, volume: Volume, dtype: str) -> None:
    given = volume.with_voxels(volume.voxels.astype(dtype))
    write_result(given, tmp_path / "a.json")
    found = read_result(Volume, tmp_path / "a.json")
    assert found.voxels.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(found.voxels, given.voxels)
    assert (found.spacing, found.origin, found.direction) == (given.spacing, given.origin, given.direction)


def test_an_array_that_is_a_view_of_another(tmp_path: Path) -> None:
    voxels = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8).transpose(2, 0, 1)[::-1, :, ::2]
    write_array(voxels, tmp_path / "a.npy")
    assert np.array_equal(read_array(tmp_path / "a.npy"), voxels)


def test_an_array_that_is_truncated_missing_or_claims_to_be_huge_is_refused(tmp_path: Path, volume: Volume) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(JobError, match="not complete"):
        read_array(path)
    write_array(volume.voxels, path)
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(JobError, match="not complete"):
            read_array(path)
    assert content.count(b"(20, 24, 18)") == 1
    path.write_bytes(content.replace(b"(20, 24, 18), }  ", b"(20,24,18000000)}"))
    with pytest.raises(JobError, match="bytes are left"):
        read_array(path)
    np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(JobError, match="not complete"):
        read_array(path)


def test_troubles_with_the_disk_in_words() -> None:
    assert "the disk is full" in str(storage_error(Path("jobs"), OSError(errno.ENOSPC, "No space left on device")))
    denied = str(storage_error(Path("jobs"), OSError(errno.EACCES, "Permission denied")))
    assert "(Permission denied); check the disk and the permissions" in denied


def test_long_paths_are_marked_on_windows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Path("/" + "x" * 300)
    assert long_path(Path("/short")) == Path("/short")
    if sys.platform != "win32":
        assert long_path(long) == long
    else:
        assert str(long_path(long)).startswith("\\\\?\\")

from __future__ import annotations

import errno
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.io import files
from KDSegmentatorLib.io.files import (
    CHUNK_BYTES,
    atomic_folder,
    atomic_output,
    delete_tree,
    file_sha256,
    is_disk_full,
    replace,
    replacing,
    sync_folder,
)
from KDSegmentatorLib.packs.installed import LIST_NAME, Installed, read_installed, write_installed


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
def test_a_files_hash(tmp_path: Path, size: int) -> None:
    content = bytes(n % 251 for n in range(1000)) * (size // 1000 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content[:size]).hexdigest()


def test_replacing_waits_for_a_virus_scanner_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    attempts = []
    really = Path.replace

    def busy(self: Path, target: Path) -> Path:
        attempts.append(self)
        if len(attempts) < 3:
            raise PermissionError(errno.EACCES, "in use")
        return really(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(files, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(sys, "platform", "win32")
    replace(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new"
    assert len(attempts) == 3

    attempts.clear()
    monkeypatch.setattr(files, "_ATTEMPTS", 2)
    with pytest.raises(PermissionError):
        replace(tmp_path / "old", tmp_path / "new")

    monkeypatch.setattr(sys, "platform", "linux")
    attempts.clear()
    with pytest.raises(PermissionError):
        replace(tmp_path / "old", tmp_path / "new")
    assert len(attempts) == 1


def installed_list(folder: Path) -> None:
    write_installed(folder, Installed(current="1.0.0-0123456789ab", previous=None))


def plain_file(folder: Path) -> None:
    with atomic_output(folder / LIST_NAME) as temporary:
        temporary.write_text("new")


@pytest.mark.parametrize("write", [installed_list, plain_file])
def test_whatever_replaces_a_file_waits_for_a_virus_scanner_on_windows(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []
    really = Path.replace

    def busy(self: Path, target: Path) -> Path:
        attempts.append(self)
        if len(attempts) < 3:
            raise PermissionError(errno.EACCES, "in use")
        return really(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(files, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(sys, "platform", "win32")
    write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LIST_NAME]
    assert len(attempts) == 3


def test_a_file_that_was_not_finished_leaves_the_old_one(tmp_path: Path) -> None:
    installed_list(tmp_path)
    with pytest.raises(ValueError, match="half"), replacing(tmp_path / LIST_NAME) as temporary:
        temporary.write_text("half")
        raise ValueError("half")
    assert [path.name for path in tmp_path.iterdir()] == [LIST_NAME]
    assert read_installed(tmp_path) is not None


def test_a_folder_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "a" / "pack") as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / f"{content}.txt").write_text(content)
    assert [path.name for path in (tmp_path / "a" / "pack").rglob("*.txt")] == ["new.txt"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["pack"]


def test_a_folder_that_was_not_finished_leaves_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "old.txt").write_text("old")
    with pytest.raises(ValueError, match="half"), atomic_folder(tmp_path / "pack") as temporary:
        (temporary / "new.txt").write_text("half")
        raise ValueError("half")
    assert [path.name for path in tmp_path.rglob("*")] == ["pack", "old.txt"]


def test_a_full_disk_is_told_from_other_failures() -> None:
    windows = OSError(errno.EINVAL, "x")
    windows.winerror = 112  # type: ignore[attr-defined, unused-ignore]
    wrapped = ValueError("x")
    wrapped.__cause__ = OSError(errno.ENOSPC, "x")
    assert is_disk_full(windows)
    assert is_disk_full(wrapped)
    assert not is_disk_full(OSError(errno.EIO, "x"))


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_syncing_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    if sys.platform == "win32" and platform != "win32":
        pytest.skip("Windows cannot open folders")
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(sys, "platform", platform)
    sync_folder(tmp_path)


def test_deleting_never_fails(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    delete_tree(tmp_path / "a")
    delete_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()

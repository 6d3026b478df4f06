from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import CancelledError, ImageWriteError
from KDSegmentatorLib.io import files
from KDSegmentatorLib.io.files import (
    CHUNK_BYTES,
    atomic_folder,
    atomic_output,
    check_output,
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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with atomic_output(target) as temporary:
        temporary.write_text("a,b\n")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        assert not target.exists()
    assert target.read_text() == "a,b\n"
    assert names(tmp_path) == ["out.csv"]


@pytest.mark.parametrize(
    ("name", "suffix"), [("a b.nii.gz", ".nii.gz"), ("scan.1.5mm.NII.GZ", ".nii.gz"), ("x.v1.png", ".png"), ("x", "")]
)
def test_the_temporary_keeps_the_suffix(tmp_path: Path, name: str, suffix: str) -> None:
    with atomic_output(tmp_path / name) as temporary:
        assert "".join(temporary.suffixes) == suffix


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")
    with pytest.raises(CancelledError), atomic_output(target) as temporary:
        temporary.write_text("half")
        raise CancelledError("cancelled")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["out.csv"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_output(tmp_path / "out.csv"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "check the disk")])
def test_an_operating_system_error_is_named(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(ImageWriteError, match=message), atomic_output(tmp_path / "out.csv"):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageWriteError, match=r"no folder .*missing; create it"):
        check_output(tmp_path / "missing" / "out.csv")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(ImageWriteError, match="it is a folder"):
        check_output(tmp_path / "out.csv")


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege on Windows")
def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "real" / "out.csv")
    with atomic_output(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "real" / "out.csv").read_text() == "new"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE is the disk that fills up")
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from pathlib import Path
        from KDSegmentatorLib.errors import ImageWriteError
        from KDSegmentatorLib.io.files import atomic_output
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with atomic_output(Path(sys.argv[1])) as temporary:
                temporary.write_bytes(bytes(5000))
        except ImageWriteError as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "out.csv"], capture_output=True, text=True, check=True
    )
    assert "the disk is full" in run.stdout
    assert names(tmp_path) == []

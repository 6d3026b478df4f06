"""Several files that appear together or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import EngineError, ImageWriteError
from KDSegmentatorLib.io import files
from KDSegmentatorLib.io.files import write_together


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding="utf-8") and None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_all_appear(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "one.txt").write_text("old", encoding="utf-8")
    write_together([(tmp_path / "one.txt", text("1")), (tmp_path / "b" / "two.txt", text("2"))])
    assert (tmp_path / "one.txt").read_text(encoding="utf-8") == "1"
    assert (tmp_path / "b" / "two.txt").read_text(encoding="utf-8") == "2"
    assert names(tmp_path) == ["b", "one.txt", "two.txt"]


@pytest.mark.parametrize("error", [ImageWriteError("full"), OSError(28, "No space left on device"), EngineError("x")])
def test_one_that_cannot_be_written_leaves_none(tmp_path: Path, error: Exception) -> None:
    def fail(path: Path) -> None:
        path.write_text("half", encoding="utf-8")
        raise error

    (tmp_path / "one.txt").write_text("old", encoding="utf-8")
    expected = type(error) if isinstance(error, EngineError) else ImageWriteError
    with pytest.raises(expected):
        write_together([(tmp_path / "one.txt", text("1")), (tmp_path / "two.txt", fail)])
    assert names(tmp_path) == ["one.txt"]
    assert (tmp_path / "one.txt").read_text(encoding="utf-8") == "old"


def test_the_message_names_the_users_file(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise ImageWriteError(f"cannot write {path}: full")

    with pytest.raises(ImageWriteError) as caught:
        write_together([(tmp_path / "one.txt", fail)])
    assert str(caught.value) == f"cannot write {tmp_path / 'one.txt'}: full"


def test_one_that_cannot_be_moved_into_place_brings_the_others_back(tmp_path: Path) -> None:
    """As on Windows, where a table that is open in another program cannot be replaced."""
    (tmp_path / "one.txt").write_text("old", encoding="utf-8")
    original = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if Path(target).name == "three.txt":
            raise PermissionError(13, "in use")
        return original(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(ImageWriteError, match="in use"):
            write_together([(tmp_path / f"{name}.txt", text(name)) for name in ("one", "two", "three")])
    assert names(tmp_path) == ["one.txt"]
    assert (tmp_path / "one.txt").read_text(encoding="utf-8") == "old"


def no_links(source: object, target: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=[True, False], ids=["links", "copies"])
def old(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return two files that were there before, on a file system with or without hard links."""
    if not request.param:
        monkeypatch.setattr(os, "link", no_links)
    paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for path in paths:
        path.write_text(f"old {path.name}", encoding="utf-8")
    return paths


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


OLD = {"one.txt": "old one.txt", "two.txt": "old two.txt"}


def test_old_files_are_replaced(tmp_path: Path, old: list[Path]) -> None:
    write_together([(path, text("new")) for path in old])
    assert contents(tmp_path) == {"one.txt": "new", "two.txt": "new"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), PermissionError(13, "in use")])
@pytest.mark.parametrize("after", [False, True], ids=["before the move", "after the move"])
@pytest.mark.parametrize("at", [0, 1])
def test_old_files_survive_whatever_comes_in_between(
    tmp_path: Path, old: list[Path], monkeypatch: pytest.MonkeyPatch, at: int, after: bool, error: BaseException
) -> None:
    moves = 0
    original = files.replace

    def replace(source: Path, target: Path) -> None:
        nonlocal moves
        moves += 1
        assert target.exists()  # an old file never leaves its place
        if moves != at + 1:
            original(source, target)
            return
        if after:
            original(source, target)
        raise error

    monkeypatch.setattr(files, "replace", replace)
    with pytest.raises(ImageWriteError if isinstance(error, OSError) else type(error)):
        write_together([(path, text("new")) for path in old])
    assert contents(tmp_path) == OLD


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PermissionError(13, "in use")])
def test_an_old_file_that_cannot_be_put_back_is_kept_and_named(
    tmp_path: Path, old: list[Path], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    original = files.replace
    moves = 0

    def replace(source: Path, target: Path) -> None:
        nonlocal moves
        moves += 1
        if moves == 1:
            original(source, target)
            return
        raise error if moves == 2 else PermissionError(13, "in use")

    monkeypatch.setattr(files, "replace", replace)
    with pytest.raises(ImageWriteError) as caught:
        write_together([(path, text("new")) for path in old])
    message = str(caught.value)
    assert "nothing was written" not in message
    assert f"{old[0]} could not be put back" in message
    kept = re.search(r"its old content is in (.*), move it back", message)
    assert kept is not None
    assert Path(kept[1]).read_text(encoding="utf-8") == "old one.txt"
    assert old[1].read_text(encoding="utf-8") == "old two.txt"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_new_file_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = files.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == "two.txt":
            raise PermissionError(13, "in use")
        original(source, target)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "in use")

    monkeypatch.setattr(files, "replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(ImageWriteError, match=r"one\.txt could not be removed"):
        write_together([(tmp_path / name, text("new")) for name in ("one.txt", "two.txt")])


def test_a_copy_of_an_old_file_that_fails_stops_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.txt").write_text("old", encoding="utf-8")

    def full(source: Path, target: Path) -> None:
        target.write_text("o", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(files.shutil, "copyfile", full)
    with pytest.raises(ImageWriteError, match="No space left"):
        write_together([(tmp_path / "one.txt", text("1"))])
    assert contents(tmp_path) == {"one.txt": "old"}


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageWriteError):
        write_together([(tmp_path / "missing" / "one.txt", text("1"))])

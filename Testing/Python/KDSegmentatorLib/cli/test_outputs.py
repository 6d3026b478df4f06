from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.cli.outputs import PlannedOutput, check_outputs, write_together
from KDSegmentatorLib.errors import EngineError, ImageWriteError, InvalidSettingsError


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


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageWriteError):
        write_together([(tmp_path / "missing" / "one.txt", text("1"))])


def test_one_path_twice(tmp_path: Path) -> None:
    first = PlannedOutput(option="--a", path=tmp_path / "one.txt", suffixes=(".txt",))
    second = PlannedOutput(option="--b", path=tmp_path / "x" / ".." / "one.txt", suffixes=(".txt",))
    (tmp_path / "x").mkdir()
    with pytest.raises(InvalidSettingsError, match="same file as --a"):
        check_outputs([first, second], tmp_path / "input.nii")
    assert names(tmp_path) == ["x"]

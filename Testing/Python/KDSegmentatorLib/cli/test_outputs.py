from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.cli.outputs import PlannedOutput, check_outputs, write_together
from KDSegmentatorLib.cli.terminal import Interrupt, listening
from KDSegmentatorLib.errors import CancelledError, InvalidSettingsError
from KDSegmentatorLib.io import files


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding="utf-8") and None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def old(tmp_path: Path) -> list[Path]:
    """Return two files that were there before."""
    paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for path in paths:
        path.write_text(f"old {path.name}", encoding="utf-8")
    return paths


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


OLD = {"one.txt": "old one.txt", "two.txt": "old two.txt"}


@pytest.mark.parametrize("pressed_at", [0, 1])
def test_ctrl_c_while_a_file_is_written_leaves_all_as_it_was(tmp_path: Path, old: list[Path], pressed_at: int) -> None:
    written = []

    def writer(path: Path) -> None:
        if len(written) == pressed_at:
            signal.raise_signal(signal.SIGINT)
        path.write_text("new", encoding="utf-8")
        written.append(path)

    with listening() as interrupt, pytest.raises(CancelledError):
        write_together([(path, writer) for path in old], interrupt)
    assert len(written) == pressed_at + 1
    assert contents(tmp_path) == OLD


def test_ctrl_c_while_files_are_moved_is_too_late(
    tmp_path: Path, old: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = files.replace

    def replace(source: Path, target: Path) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        original(source, target)

    monkeypatch.setattr(files, "replace", replace)
    with listening() as interrupt:
        write_together([(path, text("new")) for path in old], interrupt)
    assert contents(tmp_path) == {"one.txt": "new", "two.txt": "new"}


def test_nothing_is_written_after_a_request_to_stop(tmp_path: Path) -> None:
    interrupt = Interrupt()
    interrupt.receive(signal.SIGINT, None)
    with pytest.raises(CancelledError):
        write_together([(tmp_path / "one.txt", text("1"))], interrupt)
    assert contents(tmp_path) == {}


def test_one_path_twice(tmp_path: Path) -> None:
    first = PlannedOutput(option="--a", path=tmp_path / "one.txt", suffixes=(".txt",))
    second = PlannedOutput(option="--b", path=tmp_path / "x" / ".." / "one.txt", suffixes=(".txt",))
    (tmp_path / "x").mkdir()
    with pytest.raises(InvalidSettingsError, match="same file as --a"):
        check_outputs([first, second], tmp_path / "input.nii")
    assert names(tmp_path) == ["x"]


def test_a_name_under_which_itk_would_show_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.nii").touch()
    planned = PlannedOutput(option="OUTPUT", path=tmp_path / "labels.nii.gz", suffixes=(".nii.gz",))
    with pytest.raises(InvalidSettingsError, match=r"OUTPUT .*labels\.nii lies beside it"):
        check_outputs([planned], tmp_path / "scan.nii.gz")
    (tmp_path / "labels.nii").unlink()
    check_outputs([planned], tmp_path / "scan.nii.gz")

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from KDSegmentatorPanel.interpreter import python_executable


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the empty folder in which the running Python is said to be installed; no PythonSlicer is on the path."""
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


def executable(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(0o755)
    return str(path)


def suffix() -> str:
    return ".exe" if os.name == "nt" else ""


def test_the_python_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert python_executable() == sys.executable


def test_slicer_says_where_its_python_is(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = executable(prefix / "bin" / f"PythonSlicer{suffix()}")
    monkeypatch.setattr(sys, "executable", path)
    assert python_executable() == path


@pytest.mark.parametrize("said", ["", None, "/opt/Slicer/SlicerApp-real"])
def test_slicer_without_its_launcher(prefix: Path, monkeypatch: pytest.MonkeyPatch, said: str | None) -> None:
    monkeypatch.setattr(sys, "executable", said)
    assert python_executable() == "PythonSlicer", "for the message"
    own = prefix / "python.exe" if os.name == "nt" else prefix / "bin" / "python3"
    found = executable(own)
    assert python_executable() == found
    on_path = executable(prefix / "path" / f"PythonSlicer{suffix()}")
    assert python_executable() == on_path

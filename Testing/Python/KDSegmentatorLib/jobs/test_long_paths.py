from __future__ import annotations

import sys
from pathlib import Path

import pytest

from KDSegmentatorLib.jobs.long_paths import long_path


def test_long_paths_are_extended_on_windows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = Path("/data/scan.nii"), Path(f"/data/{'x' * 250}/scan.nii")
    assert long_path(short) == short
    if sys.platform != "win32":
        assert long_path(long) == long
    monkeypatch.setattr(sys, "platform", "win32")
    assert long_path(short) == short
    extended = str(long_path(long))
    assert extended.startswith("\\\\?\\")
    assert str(long_path(Path(extended))) == extended
    monkeypatch.setattr("os.path.abspath", lambda path: "\\\\server\\share\\scan.nii")
    assert str(long_path(long)) == "\\\\?\\UNC\\server\\share\\scan.nii"

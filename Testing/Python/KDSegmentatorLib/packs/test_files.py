from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from KDSegmentatorLib.packs.files import delete_tree, new_name, sync_folder, write_error


def test_new_names_differ() -> None:
    assert new_name("a-") != new_name("a-")
    assert new_name("a-").startswith("a-")


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


def test_every_write_error_has_a_remedy(tmp_path: Path) -> None:
    assert "the disk is full" in str(write_error(tmp_path, OSError(errno.ENOSPC, "x")))
    windows = OSError(errno.EINVAL, "x")
    windows.winerror = 112  # type: ignore[attr-defined, unused-ignore]
    assert "the disk is full" in str(write_error(tmp_path, windows))
    for number in (errno.EACCES, errno.EROFS):
        assert "KDSEGMENTATOR_PACKS" in str(write_error(tmp_path, OSError(number, "x")))
    assert "check the disk" in str(write_error(tmp_path, OSError(errno.EIO, "x")))

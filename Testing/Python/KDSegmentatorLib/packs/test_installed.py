from __future__ import annotations

from pathlib import Path

import pytest

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs.installed import Installed, read_installed, write_installed


def test_there_and_back(tmp_path: Path) -> None:
    assert read_installed(tmp_path / "nothing") is None
    assert read_installed(tmp_path) is None
    for installed in (
        Installed(current="1.0.0-0123456789ab", previous=None),
        Installed(current="1.10.0-ba9876543210", previous="1.0.0-0123456789ab"),
    ):
        write_installed(tmp_path, installed)
        assert read_installed(tmp_path) == installed
    assert [path.name for path in tmp_path.iterdir()] == ["installed.json"]


@pytest.mark.parametrize("name", ["../1.0.0-0123456789ab", "1.0.0-0123456789ab/..", "1.0.0", "1.0.0-0123456789AB", "/"])
def test_other_folders_are_never_read(tmp_path: Path, name: str) -> None:
    write_installed(tmp_path, Installed(current=name, previous=None))
    with pytest.raises(PackError, match=r"installed\.json is damaged"):
        read_installed(tmp_path)


def test_an_unreadable_list(tmp_path: Path) -> None:
    (tmp_path / "installed.json").mkdir()
    with pytest.raises(PackError, match=r"installed\.json cannot be read"):
        read_installed(tmp_path)

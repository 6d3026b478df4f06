from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs import locations
from KDSegmentatorLib.packs.locations import (
    default_cache_folder,
    default_shipped_folder,
    default_user_folder,
    is_lasting,
)
from KDSegmentatorLib.packs.store import PackStore

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="folders of the XDG specification")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("KDSEGMENTATOR_PACKS", "XDG_DATA_HOME", "KDSEGMENTATOR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@on_linux
def test_packs_and_caches_are_in_the_users_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_user_folder() == home / ".local" / "share" / "KDSegmentator" / "Packs"
    assert default_cache_folder() == home / ".cache" / "KDSegmentator"
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    assert default_user_folder() == home / "data" / "KDSegmentator" / "Packs"
    assert default_cache_folder() == home / "cache" / "KDSegmentator"
    assert is_lasting(default_user_folder())


def test_variables_name_other_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSEGMENTATOR_PACKS", str(home / "mine"))
    monkeypatch.setenv("KDSEGMENTATOR_CACHE", "relative")
    assert default_user_folder() == home / "mine"
    assert default_cache_folder() == Path("relative").absolute()


def test_the_shipped_folder_is_in_the_wheel_or_beside_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "KDSegmentatorLib" / "packs" / "locations.py"
    monkeypatch.setattr(locations, "__file__", str(module))
    assert default_shipped_folder() == (tmp_path / "Resources" / "Packs").resolve()
    inside = tmp_path / "KDSegmentatorLib" / "Resources" / "Packs"
    inside.mkdir(parents=True)
    assert default_shipped_folder() == inside.resolve()


def test_every_shipped_pack_says_what_it_fits_and_what_to_expect() -> None:
    """From the manifests themselves: ``kdseg-distill complete`` adds both to packs of an earlier version."""
    paths = sorted(default_shipped_folder().glob("*/manifest.json"))
    assert paths
    manifests = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    fields = ("expected", "field_of_view")
    assert [(pack, each) for pack, manifest in manifests.items() for each in fields if not manifest.get(each)] == []


@pytest.fixture
def homeless(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose home nobody knows: one that no list of users has, without HOME."""
    import pwd

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@on_linux
@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_has_the_shipped_packs_and_is_told_where_to_put_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = PackStore()
    assert store.packs()
    assert not is_lasting(store.user_folder)
    with pytest.raises(PackError, match=r"no home folder to keep packs in; name a folder with .*KDSEGMENTATOR_PACKS"):
        store.install(default_shipped_folder() / "hippocampus-x1_4")
    monkeypatch.setenv("KDSEGMENTATOR_PACKS", str(tmp_path / "mine"))
    assert is_lasting(default_user_folder())


@on_linux
@pytest.mark.usefixtures("homeless")
def test_the_cache_of_a_user_without_a_home_is_nobody_elses() -> None:
    folder = default_cache_folder()
    assert folder == default_cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700


@on_linux
def test_it_is_gone_when_the_process_ends(home: Path) -> None:
    code = (
        "import pwd; pwd.getpwuid = {}.__getitem__; "
        "from KDSegmentatorLib.packs.locations import default_cache_folder; print(default_cache_folder())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    ended = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    assert not Path(ended.stdout.strip()).exists()


@on_linux
def test_the_cache_in_a_home_that_is_a_strangers_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".cache").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: (home / ".cache").stat().st_uid + 1)
    if (home / ".cache").stat().st_uid == 0:
        os.chown(home / ".cache", 12345, -1)
    assert not default_cache_folder().is_relative_to(home)

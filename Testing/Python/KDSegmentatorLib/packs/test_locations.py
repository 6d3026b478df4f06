from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from KDSegmentatorLib.packs import locations
from KDSegmentatorLib.packs.locations import default_cache_folder, default_shipped_folder, default_user_folder
from KDSegmentatorLib.packs.store import PackStore


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("KDSEGMENTATOR_PACKS", "LOCALAPPDATA", "XDG_DATA_HOME", "KDSEGMENTATOR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("platform", "variable", "inside_home"),
    [
        ("win32", "LOCALAPPDATA", "AppData/Local"),
        ("linux", "XDG_DATA_HOME", ".local/share"),
        ("darwin", None, "Library/Application Support"),
    ],
)
def test_the_users_folder(
    bare: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variable: str | None, inside_home: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert default_user_folder() == bare / inside_home / "KDSegmentator" / "Packs"
    if variable:
        monkeypatch.setenv(variable, str(bare / "data"))
        assert default_user_folder() == bare / "data" / "KDSegmentator" / "Packs"
    monkeypatch.setenv("KDSEGMENTATOR_PACKS", str(bare / "mine"))
    assert default_user_folder() == bare / "mine"
    monkeypatch.setenv("KDSEGMENTATOR_PACKS", "relative")
    assert default_user_folder().is_absolute()


@pytest.mark.parametrize(
    ("platform", "variable", "inside_home", "below"),
    [
        ("win32", "LOCALAPPDATA", "AppData/Local", "KDSegmentator/Caches"),
        ("linux", "XDG_CACHE_HOME", ".cache", "KDSegmentator"),
        ("darwin", None, "Library/Caches", "KDSegmentator"),
    ],
)
def test_the_cache(
    bare: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variable: str | None, inside_home: str, below: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert default_cache_folder() == bare / inside_home / below
    if variable:
        monkeypatch.setenv(variable, str(bare / "data"))
        assert default_cache_folder() == bare / "data" / below
    monkeypatch.setenv("KDSEGMENTATOR_CACHE", str(bare / "mine"))
    assert default_cache_folder() == bare / "mine"


def test_a_relative_xdg_folder_is_ignored(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_user_folder() == bare / ".local" / "share" / "KDSegmentator" / "Packs"
    assert default_cache_folder() == bare / ".cache" / "KDSegmentator"


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


def test_a_user_without_a_home_has_the_shipped_packs_and_is_told_where_to_put_others(
    bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not default_user_folder().exists()
    assert not default_cache_folder().exists()
    assert PackStore().packs()
    monkeypatch.setenv("KDSEGMENTATOR_PACKS", str(tmp_path / "mine"))
    assert default_user_folder() == tmp_path / "mine"

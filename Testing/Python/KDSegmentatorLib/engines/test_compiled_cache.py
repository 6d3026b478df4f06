from __future__ import annotations

import json
from pathlib import Path

import pytest

from KDSegmentatorLib.engines import compiled_cache
from KDSegmentatorLib.engines.compiled_cache import prepare, seal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two files, as it is after a network was compiled."""
    folder = tmp_path / "compiled" / "network"
    assert prepare(folder)
    (folder / "inner").mkdir()
    (folder / "a.blob").write_bytes(b"weights")
    (folder / "inner" / "b.blob").write_bytes(b"kernels")
    seal(folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    assert prepare(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_what_was_sealed_is_kept(folder: Path) -> None:
    assert prepare(folder)
    assert names(folder) == ["a.blob", "inner/b.blob"]
    assert (folder / "a.blob").read_bytes() == b"weights"


def changed(folder: Path) -> None:
    (folder / "inner" / "b.blob").write_bytes(b"kernelS")


def missing(folder: Path) -> None:
    (folder / "a.blob").unlink()


def added(folder: Path) -> None:
    (folder / "c.blob").write_bytes(b"of nobody knows whom")


def exchanged(folder: Path) -> None:
    (folder / "a.blob").write_bytes(b"kernels")
    (folder / "inner" / "b.blob").write_bytes(b"weights")


def without_a_list(folder: Path) -> None:
    folder.with_name("network.json").unlink()


def with_another_list(folder: Path) -> None:
    folder.with_name("network.json").write_text('["a.blob", "inner/b.blob"]', encoding="utf-8")


def with_half_a_list(folder: Path) -> None:
    file = folder.with_name("network.json")
    file.write_bytes(file.read_bytes()[:-9])


@pytest.mark.parametrize(
    "damage", [changed, missing, added, exchanged, without_a_list, with_another_list, with_half_a_list]
)
def test_anything_else_is_thrown_away(folder: Path, damage: object) -> None:
    assert callable(damage)
    damage(folder)
    assert prepare(folder)
    assert names(folder) == []
    (folder / "new.blob").write_bytes(b"made anew")
    seal(folder)
    assert prepare(folder)
    assert names(folder) == ["new.blob"]


def test_a_list_that_fits_is_not_written_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_cache, "_sha256", lambda path: pytest.fail(f"{path} is read again"))
    seal(folder)


def test_a_second_network_joins_the_first(folder: Path) -> None:
    (folder / "c.blob").write_bytes(b"another window")
    seal(folder)
    assert prepare(folder)
    assert names(folder) == ["a.blob", "c.blob", "inner/b.blob"]
    assert set(json.loads(folder.with_name("network.json").read_text(encoding="utf-8"))) == set(names(folder))


def test_a_folder_that_cannot_be_emptied_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, when another program runs the network."""
    changed(folder)

    def in_use(path: Path) -> None:
        raise PermissionError(13, "in use", str(path))

    monkeypatch.setattr(compiled_cache.shutil, "rmtree", in_use)
    assert not prepare(folder)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert not prepare(tmp_path / "file" / "network")
    assert not prepare(tmp_path / "file")


def test_a_list_that_cannot_be_written_is_no_error(folder: Path) -> None:
    folder.with_name("network.json").unlink()
    folder.with_name("network.json").mkdir()
    seal(folder)
    assert prepare(folder)
    assert names(folder) == []

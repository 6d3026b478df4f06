from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from KDSegmentatorLib.engines import compiled_cache
from KDSegmentatorLib.engines.compiled_cache import KEPT_SECONDS, drop_unused, opened, prepare, seal
from KDSegmentatorLib.io.lock import locked


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
    monkeypatch.setattr(compiled_cache, "file_sha256", lambda path: pytest.fail(f"{path} is read again"))
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


def test_the_old_name_with_other_content_is_listed_anew(folder: Path) -> None:
    """As OpenVINO compiles after damage: the file's name is that of the settings, its bytes differ each time."""
    changed(folder)
    assert prepare(folder)
    (folder / "inner").mkdir()
    (folder / "a.blob").write_bytes(b"weights, compiled anew")
    (folder / "inner" / "b.blob").write_bytes(b"kernels, compiled anew")
    seal(folder)
    assert prepare(folder)
    assert names(folder) == ["a.blob", "inner/b.blob"]


def test_a_list_is_gone_although_its_folder_could_not_be_emptied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(folder)

    def in_use(path: Path) -> None:
        raise PermissionError(13, "in use", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(compiled_cache.shutil, "rmtree", in_use)
        assert not prepare(folder)
    (folder / "inner" / "b.blob").write_bytes(b"kernels")  # what the old list names
    assert prepare(folder)
    assert names(folder) == []


# ---- several processes ----


def test_nobody_else_looks_at_what_is_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "compiled" / "network"
    seen: list[tuple[bool, list[str]]] = []

    def other() -> None:
        with opened(folder) as usable:
            seen.append((usable, names(folder)))

    with opened(folder) as usable:
        assert usable
        (folder / "a.blob").write_bytes(b"half")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        (folder / "a.blob").write_bytes(b"all of it")
        seal(folder)
    thread.join()
    assert seen == [(True, ["a.blob"])]
    assert (folder / "a.blob").read_bytes() == b"all of it"


def test_a_folder_that_another_process_holds_for_long_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_cache, "_WAIT_SECONDS", 0.05)
    changed(folder)
    with locked(folder.parent / "lock", 0), opened(folder) as usable:
        assert not usable
        assert names(folder) == ["a.blob", "inner/b.blob"]
    with opened(folder) as usable:
        assert usable


def test_a_failure_while_a_folder_is_held_comes_through(folder: Path) -> None:
    with pytest.raises(OSError, match="disk full"), opened(folder):
        raise OSError("disk full")
    with opened(folder) as usable:
        assert usable


def test_where_no_folder_can_be_made_there_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with opened(tmp_path / "file" / "compiled" / "network") as usable:
        assert not usable


# ---- what nobody uses ----


def network(root: Path, version: str, name: str, days: float | None) -> Path:
    """Return the folder of a compiled network that was used some days ago; None leaves its list out."""
    folder = root / version / name
    assert prepare(folder)
    (folder / "a.blob").write_bytes(b"weights")
    used = time.time() - (0 if days is None else days) * 24 * 3600
    if days is not None:
        seal(folder)
        os.utime(folder.with_name(f"{name}.json"), (used, used))
    return folder


def test_what_was_not_used_for_long_is_deleted(tmp_path: Path) -> None:
    days = KEPT_SECONDS / 24 / 3600
    recent = network(tmp_path, "openvino-2", "recent", days - 1)
    old_pack = network(tmp_path, "openvino-2", "old", days + 1)
    old_version = network(tmp_path, "openvino-1", "older", days + 1)
    compiling = network(tmp_path, "openvino-2", "compiling", None)
    killed = network(tmp_path, "openvino-2", "killed", None)
    os.utime(killed, (0, 0))
    other = network(tmp_path, "not-ours", "old", days + 1)
    drop_unused(tmp_path)
    assert [folder.exists() for folder in (recent, compiling, other)] == [True] * 3
    assert [folder.exists() for folder in (old_pack, old_version, killed)] == [False] * 3
    assert not old_pack.with_name("old.json").exists()
    assert prepare(recent)
    assert names(recent) == ["a.blob"]


def test_using_a_network_keeps_it(tmp_path: Path) -> None:
    folder = network(tmp_path, "openvino-2", "network", KEPT_SECONDS / 24 / 3600 + 1)
    with opened(folder) as usable:
        assert usable
    drop_unused(tmp_path)
    assert names(folder) == ["a.blob"]


def test_what_another_process_holds_is_not_deleted(tmp_path: Path) -> None:
    folder = network(tmp_path, "openvino-2", "network", KEPT_SECONDS / 24 / 3600 + 1)
    with locked(folder.parent / "lock", 0):
        drop_unused(tmp_path)
    assert folder.exists()
    drop_unused(tmp_path / "missing")

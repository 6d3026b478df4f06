from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import distillation.run.hashes as module
from distillation.run.hashes import FileHashes, settings_hash


def test_a_file_is_read_again_only_when_it_may_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, kept = tmp_path / "image", tmp_path / "run" / "hashes.json"
    path.write_bytes(b"one")
    hashes = FileHashes(kept)
    first = hashes.of(path)
    hashes.save()
    original = module.file_sha256

    def forbidden(_: Path) -> str:
        raise AssertionError("read again")

    monkeypatch.setattr(module, "file_sha256", forbidden)
    assert FileHashes(kept).of(path) == first
    monkeypatch.setattr(module, "file_sha256", original)
    os.utime(path, ns=(0, 0))
    assert FileHashes(kept).of(path) == first  # touched, but the same
    path.write_bytes(b"two")
    assert FileHashes(kept).of(path) != first


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a": 3}'])
def test_a_damaged_file_of_hashes_is_no_loss(tmp_path: Path, content: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"one")
    (tmp_path / "hashes.json").write_text(content)
    assert FileHashes(tmp_path / "hashes.json").of(path) == FileHashes(tmp_path / "none.json").of(path)


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    hashes = FileHashes(tmp_path / "hashes.json")
    before = hashes.of_all([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert hashes.of_all([tmp_path / "b", tmp_path / "a"], tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "c")
    assert hashes.of_all([tmp_path / "c", tmp_path / "b"], tmp_path) != before


@dataclass(frozen=True)
class Older:
    epochs: int
    parts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Newer:
    epochs: int
    parts: dict[str, int] = field(default_factory=dict)
    checkpointing: bool = False


def test_a_new_setting_at_its_default_changes_nothing() -> None:
    assert settings_hash(Older(3, {"a": 1, "b": 2})) == settings_hash(Newer(3, {"b": 2, "a": 1}))
    assert settings_hash(Newer(3)) != settings_hash(Newer(3, checkpointing=True))
    assert settings_hash(Newer(3)) != settings_hash(Newer(4))

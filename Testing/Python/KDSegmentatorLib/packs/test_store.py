"""Packs are installed, listed, replaced, rolled back and removed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs.pack import verify_pack
from KDSegmentatorLib.packs.pack_archive import write_archive
from KDSegmentatorLib.packs.store import PackStore
from support.pack_stores import ID, listing, ship, versions

BuildPack = Callable[..., Path]


def test_an_empty_store(packs: PackStore) -> None:
    assert packs.packs() == []
    assert packs.damaged() == []
    assert packs.previous(ID) is None
    assert not packs.is_shipped(ID)
    assert not packs.user_folder.exists()
    with pytest.raises(PackError, match="there is no pack 'hippocampus-x1_4'; packs: none"):
        packs.get(ID)


@pytest.mark.parametrize("as_archive", [False, True])
def test_installing_from_a_folder_or_an_archive(
    packs: PackStore, build_pack: BuildPack, tmp_path: Path, as_archive: bool
) -> None:
    source = build_pack(extra={"LICENSE.txt": b"CC"})
    if as_archive:
        write_archive(source, tmp_path / "p.kdpack")
        source = tmp_path / "p.kdpack"
    pack = packs.install(str(source))
    assert pack == packs.get(ID) == packs.verify(ID)
    assert packs.packs() == [pack]
    assert not packs.is_shipped(ID)
    assert pack.folder.is_relative_to(packs.user_folder)
    assert [name.split("/")[-1] for name in listing(packs)] == [
        ID, pack.folder.name, "LICENSE.txt", "body.onnx", "head.npz", "manifest.json", "installed.json",
    ]  # fmt: skip


def test_a_new_version_and_back(packs: PackStore, build_pack: BuildPack) -> None:
    first = packs.install(build_pack())
    with pytest.raises(PackError, match=r"no previous version .* to go back to"):
        packs.roll_back(ID)
    second = packs.install(build_pack(version="1.1.0", seed=1))
    assert versions(packs) == ["1.1.0"]
    verify_pack(first)  # whoever has it open can go on reading it
    assert packs.previous(ID) == first
    assert packs.roll_back(ID) == first
    assert packs.get(ID) == first
    assert packs.roll_back(ID) == second
    third = packs.install(build_pack(version="1.2.0", seed=2))
    assert packs.previous(ID) == second
    assert not first.folder.exists()
    assert packs.get(ID) == third


def test_installing_the_same_again_changes_nothing(packs: PackStore, build_pack: BuildPack) -> None:
    first = packs.install(build_pack())
    before = listing(packs)
    assert packs.install(build_pack()) == first
    assert listing(packs) == before
    assert packs.previous(ID) is None


def test_installing_again_repairs_a_damaged_pack(packs: PackStore, build_pack: BuildPack) -> None:
    first = packs.install(build_pack())
    damaged = packs.install(build_pack(version="1.1.0"))
    (damaged.folder / "body.onnx").write_bytes(bytes(damaged.manifest.files["body.onnx"].size))
    with pytest.raises(PackError, match="is not the file"):
        packs.verify(ID)
    repaired = packs.install(build_pack(version="1.1.0"))
    assert packs.verify(ID) == repaired
    assert packs.previous(ID) == first
    assert not damaged.folder.exists()


def test_an_older_version_is_reported(
    packs: PackStore, build_pack: BuildPack, caplog: pytest.LogCaptureFixture
) -> None:
    ship(packs, build_pack(version="1.10.0"))
    with caplog.at_level(logging.WARNING):
        packs.install(build_pack(version="1.2.0"))
    assert caplog.messages == [f"installing {ID} 1.2.0, which is older than the present 1.10.0"]
    caplog.clear()
    packs.install(build_pack(version="1.1.0"))
    assert len(caplog.messages) == 1
    caplog.clear()
    packs.install(build_pack(version="1.3.0"))
    assert caplog.messages == []


def test_a_users_pack_takes_the_place_of_a_shipped_one(packs: PackStore, build_pack: BuildPack) -> None:
    ship(packs, build_pack())
    assert packs.is_shipped(ID)
    assert versions(packs) == ["1.0.0"]
    with pytest.raises(PackError, match="came with KDSegmentator and cannot be removed"):
        packs.remove(ID)
    packs.install(build_pack(version="2.0.0"))
    assert versions(packs) == ["2.0.0"]
    assert not packs.is_shipped(ID)
    packs.remove(ID)
    assert versions(packs) == ["1.0.0"]
    assert listing(packs) == []


@pytest.mark.parametrize("name", ["nothing-x1", "../shipped", "..", "", "/", "hippocampus-x1_4/../x-x1", "C:\\x-x1"])
def test_names_that_are_no_installed_pack(packs: PackStore, build_pack: BuildPack, name: str) -> None:
    packs.install(build_pack())
    for act in (packs.remove, packs.get, packs.verify, packs.roll_back):
        with pytest.raises(PackError, match="there is no "):
            act(name)
    assert versions(packs) == ["1.0.0"]

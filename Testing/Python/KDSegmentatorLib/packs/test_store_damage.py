"""Damaged packs, lists and sources: named, and in nobody's way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from KDSegmentatorLib.errors import ManifestError, PackError
from KDSegmentatorLib.packs.pack_archive import write_archive
from KDSegmentatorLib.packs.store import PackStore
from support.pack_stores import ID, listing, ship

BuildPack = Callable[..., Path]


def test_a_damaged_pack_hides_no_other(packs: PackStore, build_pack: BuildPack, kit: ModuleType) -> None:
    network = kit.document()["network"]
    healthy = build_pack(id="hippocampus-x1_2", size="x1/2", network={**network, "alpha": 0.5})
    packs.install(healthy)
    ship(packs, build_pack())
    broken = packs.install(build_pack(version="2.0.0"))
    newer = ship(packs, build_pack(id="hippocampus-x1", size="x1", network={**network, "alpha": 1}), "hippocampus-x1")
    kit.rewrite_manifest(newer, lambda manifest: manifest.update(schema_version=9))
    ship(packs, healthy, "wrong-name-x1")
    (broken.folder / "head.npz").unlink()

    assert [pack.manifest.id for pack in packs.packs()] == ["hippocampus-x1_2"]
    found = {entry.id: entry for entry in packs.damaged()}
    assert sorted(found) == ["hippocampus-x1", ID, "wrong-name-x1"]
    assert found["hippocampus-x1"].shipped
    assert isinstance(found["hippocampus-x1"].error, ManifestError)
    assert not found[ID].shipped
    assert "head.npz is missing" in str(found[ID].error)
    assert "instead of 'wrong-name-x1'" in str(found["wrong-name-x1"].error)
    with pytest.raises(PackError, match=r"head\.npz is missing"):
        packs.get(ID)  # not the shipped version instead, silently
    packs.remove(ID)
    assert packs.get(ID).manifest.version == "1.0.0"


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"current": null, "previous": null}', '{"current": "../../other", "previous": null}',
        '{"current": "1.0.0-0123456789ab", "previous": "/etc"}', '{"current": 5, "previous": null}', "[" * 990,
    ],
)  # fmt: skip
def test_a_damaged_list_of_versions(packs: PackStore, build_pack: BuildPack, content: str) -> None:
    packs.install(build_pack())
    (packs.user_folder / ID / "installed.json").write_text(content)
    assert packs.packs() == []
    assert "installed.json is damaged; install the pack" in str(packs.damaged()[0].error)
    assert not packs.is_shipped(ID)
    with pytest.raises(PackError, match="is damaged"):
        packs.roll_back(ID)
    packs.install(build_pack())
    assert packs.verify(ID)
    assert len(list((packs.user_folder / ID).iterdir())) == 2
    (packs.user_folder / ID / "installed.json").write_text(content)
    packs.remove(ID)
    assert listing(packs) == []


def test_a_pack_copied_by_hand_is_not_used_and_not_deleted(packs: PackStore, build_pack: BuildPack) -> None:
    source = build_pack()
    packs.user_folder.mkdir()
    by_hand = Path(shutil.copytree(source, packs.user_folder / ID))
    assert packs.packs() == []
    assert "was copied here by hand" in str(packs.damaged()[0].error)
    with pytest.raises(PackError, match="was copied here by hand"):
        packs.install(source)
    assert (by_hand / "body.onnx").exists()
    packs.remove(ID)
    packs.install(source)


def test_strange_things_in_the_folders_are_ignored(packs: PackStore, build_pack: BuildPack) -> None:
    pack = packs.install(build_pack())
    for folder in (packs.user_folder, packs.shipped_folder):
        (folder / ".hidden").mkdir(parents=True)
        (folder / "note.txt").write_text("x")
    (packs.user_folder / "My own folder").mkdir()
    (packs.user_folder / "My own folder" / "1.0.0-0123456789ab").mkdir()
    packs.install(pack.folder)  # a change that changes nothing
    assert packs.packs() == [pack]
    assert packs.damaged() == []
    assert (packs.user_folder / "My own folder" / "1.0.0-0123456789ab").is_dir()


def damaged_sources(kit: ModuleType, build_pack: BuildPack, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    yield tmp_path / "nothing.kdpack", "does not exist"
    not_a_zip = tmp_path / "n.kdpack"
    not_a_zip.write_bytes(b"hello")
    yield not_a_zip, "is not a .kdpack file"
    yield tmp_path, "manifest.json is missing"
    changed = build_pack(version="3.0.0")
    (changed / "body.onnx").write_bytes((changed / "body.onnx").read_bytes()[:-1] + b"!")
    yield changed, "is not the file that the manifest lists"
    archived = tmp_path / "changed.kdpack"
    write_archive(build_pack(version="3.0.0"), archived)
    content = bytearray(archived.read_bytes())
    content[content.index(b"weight") + 40] ^= 1
    archived.write_bytes(content)
    yield archived, "is damaged|is not the file"
    newer = build_pack(version="3.0.0")
    kit.rewrite_manifest(newer, lambda manifest: manifest.update(schema_version=2))
    yield newer, "update KDSegmentator"
    external = build_pack(version="3.0.0", body=kit.onnx_model(kit.message(5, kit.message(13, b""))))
    yield external, "outside the file"
    unlisted = build_pack(version="3.0.0")
    (unlisted / "setup.py").write_text("")
    yield unlisted, "not listed"


def test_a_damaged_pack_is_not_installed(
    packs: PackStore, build_pack: BuildPack, tmp_path: Path, kit: ModuleType
) -> None:
    installed = packs.install(build_pack())
    before = listing(packs)
    for source, message in damaged_sources(kit, build_pack, tmp_path):
        with pytest.raises((PackError, ManifestError), match=message) as caught:
            packs.install(source)
        assert ".staging-" not in str(caught.value), "that folder is gone"
        assert listing(packs) == before
        assert packs.verify(ID) == installed

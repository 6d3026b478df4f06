from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from KDSegmentatorLib.errors import ManifestError, PackError
from KDSegmentatorLib.packs import pack as pack_module
from KDSegmentatorLib.packs.pack import describe_file, open_pack, verify_pack

BuildPack = Callable[..., Path]


def flip(path: Path, position: int = -1) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_pack_is_opened_read_and_verified(build_pack: BuildPack) -> None:
    folder = build_pack(extra={"LICENSE.txt": b"CC BY-SA"})
    pack = open_pack(folder)
    verify_pack(pack)
    assert pack.manifest.id == "hippocampus-x1_4"
    assert pack.manifest_sha256 == describe_file(folder / "manifest.json").sha256
    assert pack.body() == (folder / "body.onnx").read_bytes()
    assert pack.read("LICENSE.txt") == b"CC BY-SA"
    head = pack.head()
    assert head.weight.shape == (3, 4)
    assert head.bias.shape == (3,)
    assert head.weight.dtype == np.float32
    with pytest.raises(PackError, match=r"has no file 'manifest\.json'"):
        pack.read("manifest.json")


def test_a_folder_name_of_any_script(build_pack: BuildPack, tmp_path: Path) -> None:
    folder = tmp_path / "Ärzte 脑 Гиппокамп"
    build_pack().rename(folder)
    verify_pack(open_pack(str(folder)))


@pytest.mark.parametrize("name", ["body.onnx", "head.npz", "LICENSE.txt"])
def test_a_changed_byte_is_found(build_pack: BuildPack, name: str) -> None:
    folder = build_pack(extra={"LICENSE.txt": b"CC BY-SA"})
    pack = open_pack(folder)
    flip(folder / name)
    with pytest.raises(PackError, match=rf"{name} is not the file that the manifest lists.* damaged or was changed"):
        pack.read(name)
    with pytest.raises(PackError, match=rf"{name} is not the file"):
        verify_pack(open_pack(folder))
    if name == "body.onnx":
        with pytest.raises(PackError, match="is not the file"):
            pack.body()
    if name == "head.npz":
        with pytest.raises(PackError, match="is not the file"):
            pack.head()


def test_a_missing_shorter_or_longer_file_is_found_when_opening(build_pack: BuildPack) -> None:
    folder = build_pack()
    pack = open_pack(folder)
    body = folder / "body.onnx"
    content = body.read_bytes()
    for changed in (content[:-1], content + b"x"):
        body.write_bytes(changed)
        with pytest.raises(PackError, match=f"has {len(changed):,} bytes, {len(content):,} are listed"):
            open_pack(folder)
        with pytest.raises(PackError, match="is not the file"):
            pack.body()
    body.unlink()
    with pytest.raises(PackError, match=r"body\.onnx is missing; install the pack again"):
        open_pack(folder)
    with pytest.raises(PackError, match="is missing"):
        pack.body()


def test_what_is_no_pack(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="is not a folder"):
        open_pack(tmp_path / "nothing")
    with pytest.raises(PackError, match=r"manifest\.json is missing"):
        open_pack(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(PackError, match="not UTF-8 text"):
        open_pack(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(PackError, match="larger than 1,048,576 bytes"):
        open_pack(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(PackError, match="not a regular file"):
        open_pack(tmp_path)


def test_a_truncated_or_newer_manifest(build_pack: BuildPack, kit: ModuleType) -> None:
    folder = build_pack()
    kit.rewrite_manifest(folder, lambda manifest: manifest.update(schema_version=2))
    with pytest.raises(ManifestError, match="update KDSegmentator"):
        open_pack(folder)
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ManifestError, match="not valid JSON"):
        open_pack(folder)


def test_an_unlisted_file_is_refused(build_pack: BuildPack) -> None:
    folder = build_pack()
    (folder / "setup.py").write_text("print()")
    with pytest.raises(PackError, match=r"setup\.py is not listed in the pack's manifest; remove it"):
        verify_pack(open_pack(folder))


def test_a_manifest_that_changed_after_opening(build_pack: BuildPack, kit: ModuleType) -> None:
    folder = build_pack()
    pack = open_pack(folder)
    kit.rewrite_manifest(folder, lambda manifest: manifest.update(title="other"))
    with pytest.raises(PackError, match="changed while it was in use"):
        verify_pack(pack)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_links_are_refused(build_pack: BuildPack) -> None:
    folder = build_pack()
    pack = open_pack(folder)
    elsewhere = folder.parent / "elsewhere.onnx"
    (folder / "body.onnx").rename(elsewhere)
    (folder / "body.onnx").symlink_to(elsewhere)
    with pytest.raises(PackError, match=r"body\.onnx is not a regular file"):
        open_pack(folder)
    with pytest.raises(PackError, match="is not a regular file"):
        pack.body()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on Windows")
def test_a_pipe_does_not_block(build_pack: BuildPack) -> None:
    folder = build_pack()
    (folder / "body.onnx").unlink()
    os.mkfifo(folder / "body.onnx")
    with pytest.raises(PackError, match="is not a regular file"):
        open_pack(folder)


def test_the_network_is_checked(build_pack: BuildPack, kit: ModuleType) -> None:
    external = kit.onnx_model(kit.message(5, kit.number(14, 1)))
    with pytest.raises(PackError, match=r"body\.onnx is refused: a tensor's data lies outside"):
        verify_pack(open_pack(build_pack(body=external)))
    with pytest.raises(PackError, match=r"uses operator set 17, the manifest says 18"):
        verify_pack(open_pack(build_pack(body=kit.onnx_model(opsets=kit.opset(17)))))
    with pytest.raises(PackError, match="is not a usable ONNX model"):
        verify_pack(open_pack(build_pack(body=b"junk")))


def test_the_head_has_to_fit_the_labels(build_pack: BuildPack, kit: ModuleType) -> None:
    folder = build_pack()
    kit.rewrite_manifest(folder, lambda manifest: manifest["network"].update(features=5))
    with pytest.raises(PackError, match=r"head\.npz: weight has the shape \(3, 4\).* needs \(3, 5\)"):
        verify_pack(open_pack(folder))


def test_describing_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc")
    assert describe_file(path).size == 3
    assert describe_file(path).sha256.startswith("ba7816bf")
    monkeypatch.setattr(pack_module, "MAXIMUM_FILE_BYTES", 2)
    with pytest.raises(PackError, match="larger than 2 bytes"):
        describe_file(path)
    with pytest.raises(PackError, match="is missing"):
        describe_file(tmp_path / "b.txt")

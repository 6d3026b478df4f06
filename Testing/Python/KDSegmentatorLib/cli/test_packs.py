from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from KDSegmentatorLib.packs.manifest_file import read_manifest
from KDSegmentatorLib.packs.pack_archive import write_archive
from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import build_size


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_list(kdseg: Any) -> None:
    code, out, err = kdseg("packs", "list")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split()[:7] == ["Task", "Size", "ID", "Version", "Dice", "n", "Parameters"]
    assert [line.split()[:6] for line in lines[1:]] == [
        ["generated", "x1", "generated-x1", "1.0.0", "0.9000", "12"],
        ["generated", "x1/2", "generated-x1_2", "1.0.0", "0.8500", "12"],
        ["generated", "x1/4", "generated-x1_4", "1.0.0", "0.8250", "12"],
    ]
    assert "CC0-1.0" in lines[1]


def test_list_as_json(kdseg: Any) -> None:
    packs = json.loads(kdseg("packs", "list", "--json")[1])
    assert [pack["id"] for pack in packs] == ["generated-x1", "generated-x1_2", "generated-x1_4"]
    assert packs[1]["mean_dice"] == pytest.approx(0.85)
    assert packs[1]["licence"] == "CC0-1.0"


def test_list_of_nothing(kdseg: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDSEGMENTATOR_PACKS", str(tmp_path / "nowhere"))
    code, out, _ = kdseg("packs", "list")
    assert code == 0
    assert "kdseg packs install" in out
    assert kdseg("packs", "list", "--json")[1].strip() == "[]"


def test_list_names_damaged_packs(kdseg: Any, store: PackStore) -> None:
    (store.get("generated-x1").folder / "manifest.json").write_text("{}", encoding="utf-8")
    code, out, err = kdseg("packs", "list")
    assert code == 0
    assert len(out.splitlines()) == 3
    assert err.startswith("kdseg: generated-x1 cannot be used")


def test_show_has_surface_metrics_where_the_pack_has_them(kdseg: Any, store: PackStore, tmp_path: Path) -> None:
    assert "NSD" not in kdseg("packs", "show", "generated-x1_2")[1]
    path = store.get("generated-x1_2").folder / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["evaluation"] |= {
        "mean_nsd": {"mean": 0.9, "low": 0.85, "high": 0.95},
        "mean_hd95_mm": {"mean": 2.5, "low": 2.0, "high": 3.25},
        "nsd_tolerance_mm": 1.5,
        "nsd_surface": "subvoxel",
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    out = kdseg("packs", "show", "generated-x1_2")[1]
    assert re.search(r"Mean NSD at 1\.5 mm, sub-voxel +0\.9000 \(0\.8500 to 0\.9500\)", out)
    assert re.search(r"Mean HD95 +2\.50 \(2\.00 to 3\.25\) mm", out)


def test_show(kdseg: Any, store: PackStore) -> None:
    code, out, _ = kdseg("packs", "show", "generated-x1_2")
    pack = store.get("generated-x1_2")
    assert code == 0
    for text in (
        "generated-x1_2 1.0.0",
        "structure 2",
        'SCT 10200004 "Liver"',
        "0.8500 (0.7500 to 0.9500)",
        "n = 12",
        "94.4% of it",
        "RAS",
        "CC0-1.0",
        "Intended use",
        "Limits",
        pack.manifest_sha256,
        pack.manifest.files["body.onnx"].sha256,
        str(pack.folder),
    ):
        assert text in out, text


def test_show_says_how_large_the_training_images_were(kdseg: Any, store: PackStore) -> None:
    assert "images of unknown size" in kdseg("packs", "show", "generated-x1_2")[1]
    manifest = store.get("generated-x1_2").folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["field_of_view"] = {"smallest": [31.0, 40.2, 35.0], "largest": [43.0, 59.0, 35.0]}
    manifest.write_text(json.dumps(content), encoding="utf-8")
    said = "images of 31 to 43 mm left to right, 40 to 59 mm front to back, 35 mm head to foot"
    assert said in kdseg("packs", "show", "generated-x1_2")[1]


def test_show_as_json_is_the_manifest(kdseg: Any, store: PackStore) -> None:
    shown = json.loads(kdseg("packs", "show", "generated-x1", "--json")[1])
    pack = store.get("generated-x1")
    assert read_manifest(json.dumps(shown["manifest"]), "shown") == pack.manifest
    assert shown["manifest_sha256"] == pack.manifest_sha256


def test_install_update_roll_back_remove(kdseg: Any, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        folder = tmp_path / version / "other-x1_4"
        build_size(folder, "x1/4", version=version, task="other")
        archive = tmp_path / f"{version}.kdpack"
        write_archive(folder, archive)
        code, out, err = kdseg("packs", "install", archive)
        assert code == 0, err
        assert f"Installed other-x1_4 {version}" in out
    assert kdseg("packs", "verify", "other-x1_4")[:2] == (0, "other-x1_4 1.1.0 is intact (2 files)\n")
    assert kdseg("packs", "roll-back", "other-x1_4")[:2] == (0, "other-x1_4 is back at version 1.0.0\n")
    assert "other" in kdseg("packs", "list")[1]
    assert kdseg("packs", "remove", "other-x1_4")[:2] == (0, "Removed other-x1_4\n")
    assert "other" not in kdseg("packs", "list")[1]


def test_install_from_a_folder(kdseg: Any, tmp_path: Path) -> None:
    build_size(tmp_path / "pack", "x1/4", task="other")
    assert kdseg("packs", "install", tmp_path / "pack")[0] == 0
    assert kdseg("packs", "show", "other-x1_4")[0] == 0


@pytest.mark.parametrize("action", ["show", "remove", "verify", "roll-back"])
@pytest.mark.parametrize("pack_id", ["other-x1", "../work", "x" * 300, ""])
def test_unknown_id(kdseg: Any, action: str, pack_id: str) -> None:
    code, out, err = kdseg("packs", action, pack_id)
    assert code == 2
    assert out == ""
    assert err.startswith("kdseg: ")


@pytest.mark.parametrize("action", ["show", "remove", "verify", "roll-back"])
def test_a_task_in_the_place_of_an_id_is_told_its_packs(kdseg: Any, action: str) -> None:
    code, _, err = kdseg("packs", action, "generated")
    assert code == 2
    assert "'generated' is a task, not a pack; its packs: generated-x1, generated-x1_2, generated-x1_4" in err


def changed_byte(folder: Path) -> None:
    content = bytearray((folder / "body.onnx").read_bytes())
    content[40] ^= 1
    (folder / "body.onnx").write_bytes(content)


def newer_schema(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["schema_version"] = 99
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def extra_file(folder: Path) -> None:
    (folder / "run.py").write_text("print(1)", encoding="utf-8")


def missing_file(folder: Path) -> None:
    (folder / "head.npz").unlink()


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed_byte, "body.onnx"),
        (newer_schema, "schema_version"),
        (extra_file, "run.py"),
        (missing_file, "head.npz"),
        (no_manifest, "manifest.json"),
    ],
)
def test_a_bad_pack_is_not_installed(kdseg: Any, store: PackStore, tmp_path: Path, damage: Any, message: str) -> None:
    build_size(tmp_path / "pack", "x1/4", version="2.0.0")
    damage(tmp_path / "pack")
    before = contents(store.user_folder)
    code, out, err = kdseg("packs", "install", tmp_path / "pack")
    assert code == 2
    assert message in err
    assert out == ""
    assert {name: data for name, data in contents(store.user_folder).items() if name != ".lock"} == {
        name: data for name, data in before.items() if name != ".lock"
    }


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really"])
def test_a_file_that_is_no_archive(kdseg: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.kdpack"
    path.write_bytes(content)
    code, _, err = kdseg("packs", "install", path)
    assert code == 2
    assert "broken.kdpack" in err


def test_a_changed_byte_is_found_later(kdseg: Any, store: PackStore) -> None:
    changed_byte(store.get("generated-x1").folder)
    code, _, err = kdseg("packs", "verify", "generated-x1")
    assert code == 2
    assert "body.onnx" in err

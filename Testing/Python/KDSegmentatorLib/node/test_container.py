"""One folder in, one folder out, as mercure and MONAI Deploy call it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from KDSegmentatorLib.cli.node import main
from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import write_scan


@pytest.fixture(autouse=True)
def packs(tmp_path: Path, pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSEGMENTATOR_PACKS", str(tmp_path / "packs"))
    PackStore(tmp_path / "packs").install(pack)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    write_scan(folder / "sub" / "scan.nii.gz")
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("names", [("MERCURE_IN_DIR", "MERCURE_OUT_DIR"), ("MONAI_INPUTPATH", "MONAI_OUTPUTPATH")])
def test_the_environment_names_the_folders(
    source: Path, target: Path, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names[0], str(source))
    monkeypatch.setenv(names[1], str(target))
    monkeypatch.setenv("KDSEG_PACK", "generated")
    assert main(["once", "--outputs", "labels"]) == 0
    assert {path.name for path in target.iterdir()} == {"sub_scan-labels.nii.gz", "sub_scan-record.json"}


def test_the_settings_of_mercures_module_are_taken(source: Path, target: Path) -> None:
    settings = {"pack": "generated", "outputs": ["labels", "statistics"]}
    (source / "task.json").write_text(json.dumps({"process": {"settings": settings}}))
    assert main(["once", str(source), str(target)]) == 0
    assert (target / "sub_scan-statistics.csv").exists()


def test_a_scan_that_fails_is_named_and_the_others_are_segmented(source: Path, target: Path, capsys) -> None:
    write_scan(source / "flat.nii.gz", np.ones((8, 8, 8), np.float32))
    assert main(["once", str(source), str(target), "--pack", "generated", "--outputs", "labels"]) == 1
    assert "flat: cannot read" in capsys.readouterr().err
    assert (target / "sub_scan-labels.nii.gz").exists()
    assert not list(target.glob("flat*"))
    assert not list(target.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pack", "nothing"], "nothing"),
        (["--pack", "generated", "--outputs", "picture"], "Invalid enum value 'picture'"),
        (["--pack", "generated", "--size", "big"], "no size 'big'"),
        ([], "name the pack"),
    ],
)
def test_settings_that_make_no_sense_are_named(
    source: Path, target: Path, arguments: list[str], said: str, capsys
) -> None:
    assert main(["once", str(source), str(target), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_a_scan_and_one_that_is_none_are_named(tmp_path: Path, target: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no scan")
    assert main(["once", str(tmp_path / "empty"), str(target), "--pack", "generated"]) == 2
    assert "holds no scan" in capsys.readouterr().err
    assert main(["once", str(tmp_path / "none"), str(target), "--pack", "generated"]) == 2
    assert "does not exist" in capsys.readouterr().err

"""Every bad input of the issue: a message with a remedy, an exit code, and no file left behind."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import write_scan

RANDOM = np.random.default_rng(0)
SHAPE = (12, 14, 16)
TISSUE = RANDOM.gamma(2, 100, size=SHAPE).astype(np.float32)


def nothing(path: Path) -> None:
    """Leave the file out."""


def empty(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(RANDOM.bytes(5000))


def truncated(path: Path) -> None:
    write_scan(path, TISSUE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path: Path) -> None:
    path.mkdir()


def two_dimensional(path: Path) -> None:
    write_scan(path, TISSUE[0])


def four_dimensional(path: Path) -> None:
    image = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(TISSUE)] * 3)
    SimpleITK.WriteImage(image, str(path))


def colored(path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.stack([TISSUE] * 3, axis=-1), isVector=True), str(path))


def hounsfield(path: Path) -> None:
    write_scan(path, np.where(TISSUE > 200, 40, -1000).astype(np.int16) + RANDOM.integers(-30, 30, SHAPE, np.int16))


def not_a_number(path: Path) -> None:
    voxels = TISSUE.copy()
    voxels[3, 4, 5] = np.nan
    write_scan(path, voxels)


def constant(path: Path) -> None:
    write_scan(path, np.full(SHAPE, 7, dtype=np.float32))


def label_map(path: Path) -> None:
    write_scan(path, (TISSUE > 200).astype(np.uint8) + (TISSUE > 300))


def with_header(path: Path, offset: int, layout: str, *values: float) -> None:
    """Write a scan and change numbers of its NIfTI header."""
    write_scan(path, TISSUE)
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))


def no_spacing(path: Path) -> None:
    with_header(path, 76 + 4, "<f", 0.0)


def gigantic(path: Path) -> None:
    with_header(path, 40 + 2, "<3h", 2000, 2000, 2000)


def disagreeing_forms(path: Path) -> None:
    with_header(path, 280 + 12, "<f", 99.0)


def sheared(path: Path) -> None:
    header = (
        "NRRD0004\ntype: float\ndimension: 3\nspace: left-posterior-superior\nsizes: 16 14 12\n"
        "space directions: (1,0,0) (0.4,1,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\nencoding: raw\n\n"
    )
    path.write_bytes(header.encode() + TISSUE.astype("<f4").tobytes())


CASES: list[tuple[str, Callable[[Path], None], str]] = [
    ("scan.nii.gz", nothing, "scan.nii.gz"),
    ("scan.nii.gz", empty, "scan.nii.gz"),
    ("scan.nii.gz", noise, "scan.nii.gz"),
    ("scan.mha", noise, "scan.mha"),
    ("scan.nii.gz", truncated, "scan.nii.gz"),
    ("scan.nii.gz", folder, "scan.nii.gz"),
    ("scan.jpg", noise, "scan.jpg"),
    ("scan.nii.gz", two_dimensional, "3-D"),
    ("scan.nii.gz", four_dimensional, "3-D"),
    ("scan.nrrd", colored, "scan.nrrd"),
    ("scan.nii.gz", hounsfield, "CT"),
    ("scan.nii.gz", not_a_number, "NaN"),
    ("scan.nii.gz", constant, "every voxel"),
    ("scan.nii.gz", label_map, "label map"),
    ("scan.nii.gz", no_spacing, "spacing"),
    ("scan.nii.gz", gigantic, "536,870,912"),
    ("scan.nii.gz", disagreeing_forms, "sform"),
    ("scan.nrrd", sheared, "orthonormal"),
]


@pytest.mark.parametrize("size", ["auto", "x1/4"])
@pytest.mark.parametrize(("name", "make", "message"), CASES, ids=[f"{make.__name__}-{name}" for name, make, _ in CASES])
def test_bad_scan(kdseg: Any, work: Path, name: str, make: Callable[[Path], None], message: str, size: str) -> None:
    scan = work / name
    make(scan)
    before = sorted(work.rglob("*"))
    outputs = ["--statistics", work / "table.csv", "--overlay", work / "picture.png"]
    code, out, err = kdseg("segment", scan, work / "labels.nii.gz", "--pack", "generated", "--size", size, *outputs)
    lines = err.splitlines()
    assert code == 2, err
    assert lines[-1].startswith("kdseg: ")
    assert message in lines[-1]
    assert out == ""
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("make", [hounsfield, label_map])
def test_unlikely_intensities_can_be_allowed(kdseg: Any, work: Path, make: Callable[[Path], None]) -> None:
    scan = work / "scan.nii.gz"
    make(scan)
    arguments = ["segment", scan, work / "labels.nii.gz", "--pack", "generated"]
    assert "--unchecked" in kdseg(*arguments)[2]
    code, _, err = kdseg(*arguments, "--unchecked", "--quiet")
    assert code == 0, err
    assert err.startswith("Warning: Segmented without the check of the input, which found: ")


def test_another_field_of_view_can_be_allowed(kdseg: Any, store: PackStore, work: Path) -> None:
    """The scan's axes are not those of the pack."""
    manifest = store.get("generated-x1_4").folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["field_of_view"] = {"smallest": [5.0, 5.0, 5.0], "largest": [9.0, 50.0, 50.0]}
    manifest.write_text(json.dumps(content), encoding="utf-8")
    arguments = ["segment", write_scan(work / "scan.nii.gz"), work / "labels.nii.gz", "--pack", "generated"]
    arguments += ["--size", "x1/4"]
    code, _, err = kdseg(*arguments)
    assert code == 2
    assert "too large (20 mm left to right) for the pack" in err and "--unchecked" in err
    assert not (work / "labels.nii.gz").exists()
    code, _, err = kdseg(*arguments, "--unchecked", "--record", work / "record.json")
    assert code == 0, err
    record = json.loads((work / "record.json").read_text(encoding="utf-8"))
    assert record["checked"] is False
    assert "too large (20 mm left to right) for the pack" in record["warnings"][0]["sentence"]


def test_a_scan_too_large_at_the_packs_spacing(kdseg: Any, work: Path) -> None:
    """A wrong spacing (metres taken for millimetres) is found before anything is allocated."""
    image = SimpleITK.GetImageFromArray(TISSUE)
    image.SetSpacing((1000.0, 1000.0, 1000.0))
    SimpleITK.WriteImage(image, str(work / "scan.nrrd"))
    code, _, err = kdseg("segment", work / "scan.nrrd", work / "labels.nrrd", "--pack", "generated")
    assert code == 2
    assert "spacing" in err
    assert [path.name for path in work.iterdir()] == ["scan.nrrd"]

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from KDSegmentatorLib.analysis.comparison import compare
from KDSegmentatorLib.analysis.disagreement import disagreement_map
from KDSegmentatorLib.io.images import read_volume
from support.generated_family import write_scan

SHAPE = (8, 10, 12)


def teacher_labels() -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[1:5, 2:7, 2:7] = 1
    labels[5:7, 2:7, 2:7] = 2
    return labels


def student_labels() -> np.ndarray:
    labels = teacher_labels()
    labels[:, :, 2] = 0
    labels[4, 2:5, 3:7] = 2
    labels[7, 9, 11] = 6
    return labels


@pytest.fixture
def teacher(work: Path) -> Path:
    return write_scan(work / "teacher.nii.gz", teacher_labels())


@pytest.fixture
def student(work: Path) -> Path:
    return write_scan(work / "student.nrrd", student_labels())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_prints_every_value_without_names(kdseg: Any, teacher: Path, student: Path) -> None:
    code, out, err = kdseg("compare", teacher, student)
    assert code == 0, err
    expected = compare(read_volume(teacher), read_volume(student))
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["Structure", "Dice", "NSD"]
    for line, label in zip(lines[1:4], expected.labels, strict=True):
        region = label.largest_disagreement
        assert region is not None
        assert line.startswith(f"{label.name} ")
        for number in (f"{label.dice:.4f}", f"{label.nsd:.4f}", f"{label.hd95_mm:.2f}", f"{label.difference_ml:+.2f}"):
            assert number in line
        assert line.endswith(", ".join(f"{coordinate:.1f}" for coordinate in region.position))
    assert lines[4].startswith("Mean of 3") and "inf" in lines[4]  # label 6 is in the student only
    assert str(teacher) in out and str(student) in out
    assert "within 1 mm" in out and "surface voxels" in out
    assert "Left out" not in out


def test_names_from_a_pack(kdseg: Any, teacher: Path, student: Path) -> None:
    for pack in ("generated", "generated-x1_2"):
        code, out, err = kdseg("compare", teacher, student, "--labels", pack)
        assert code == 0, err
        assert out.splitlines()[1].startswith("structure 1 ")
        assert out.splitlines()[2].startswith("structure 2 ")
        assert "label values without a name: 6" in out


def test_names_from_a_table(kdseg: Any, teacher: Path, student: Path, work: Path) -> None:
    table = work / "names.CSV"
    table.write_text("\ufefflabel_name,volume_ml,label_value\nMilz,1.5,2\nÖdem,0,9\n", encoding="utf-8")
    code, out, err = kdseg("compare", teacher, student, "--labels", table)
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["Milz", "Ödem", "Mean"]
    assert out.splitlines()[2].split()[1:4] == ["-", "-", "-"]
    assert "label values without a name: 1, 6" in out
    table.write_text("label_name,label_value\nÖdem,9\n", encoding="utf-8")
    assert "neither A nor B holds any of these structures" in kdseg("compare", teacher, student, "--labels", table)[1]


def test_its_own_table_names_the_labels(kdseg: Any, teacher: Path, student: Path, work: Path) -> None:
    first = kdseg("compare", teacher, student, "--labels", "generated", "--csv", work / "first.csv")
    again = kdseg("compare", teacher, student, "--labels", work / "first.csv")
    assert first[0] == again[0] == 0
    assert first[1].splitlines()[:4] == again[1].splitlines()[:4]


def test_files(kdseg: Any, teacher: Path, student: Path, work: Path) -> None:
    table, differences = work / "table.csv", work / "differences.mha"
    options = ["--csv", table, "--disagreement", differences, "--tolerance", "0.5", "--subvoxel"]
    code, out, err = kdseg("compare", teacher, student, *options)
    assert code == 0, err
    first, second = read_volume(teacher), read_volume(student)
    expected = compare(first, second, tolerance_mm=0.5, surface="subvoxel")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["nsd"]) for row in rows] == pytest.approx([label.nsd for label in expected.labels], rel=1e-5)
    assert {row["nsd_surface"] for row in rows} == {"subvoxel"}
    assert "within 0.5 mm" in out and "area" in out
    written = read_volume(differences)
    assert written.same_grid(first)
    np.testing.assert_array_equal(written.voxels, disagreement_map(first, second).voxels)
    assert out.splitlines()[-2:] == [
        f"Wrote {table}",
        f"Wrote {differences} (1 only in A, 2 only in B, 3 another label in B)",
    ]
    assert names(work) == ["differences.mha", "student.nrrd", "table.csv", "teacher.nii.gz"]


def test_the_map_shows_the_structures_that_are_compared(kdseg: Any, teacher: Path, student: Path, work: Path) -> None:
    code, _, err = kdseg("compare", teacher, student, "--labels", "generated", "--disagreement", work / "map.nii")
    assert code == 0, err
    assert read_volume(work / "map.nii").voxels[7, 9, 11] == 0  # label 6


def test_equal_segmentations_and_one_that_is_empty(kdseg: Any, teacher: Path, work: Path) -> None:
    assert "1.0000  1.0000       0.00" in kdseg("compare", teacher, teacher)[1]
    empty = write_scan(work / "empty.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    code, out, err = kdseg("compare", teacher, empty)
    assert code == 0, err
    assert "0.0000  0.0000        inf" in out and "-100.0" in out
    code, out, err = kdseg("compare", empty, teacher)
    assert code == 0, err
    assert "  -  " in out  # no percentage of nothing


def nothing(path: Path) -> None:
    """Leave the file out."""


def no_bytes(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def truncated(path: Path) -> None:
    write_scan(path, np.random.default_rng(0).integers(0, 4, SHAPE, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path: Path) -> None:
    path.mkdir()


def two_dimensional(path: Path) -> None:
    write_scan(path, student_labels()[5])


def four_dimensional(path: Path) -> None:
    image = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(student_labels())] * 3)
    SimpleITK.WriteImage(image, str(path))


def probability(path: Path) -> None:
    write_scan(path, student_labels().astype(np.float32) / 2)


def computed_tomography(path: Path) -> None:
    write_scan(path, student_labels().astype(np.int16) - 1000)


def magnetic_resonance(path: Path) -> None:
    write_scan(path, np.random.default_rng(0).integers(0, 900, SHAPE, dtype=np.uint16))


def not_a_number(path: Path) -> None:
    voxels = student_labels().astype(np.float32)
    voxels[1, 2, 3] = np.nan
    write_scan(path, voxels)


def another_size(path: Path) -> None:
    write_scan(path, student_labels()[1:])


def another_place(path: Path) -> None:
    write_scan(path, student_labels())
    image = SimpleITK.ReadImage(str(path))
    image.SetOrigin((12, -34, 57))
    SimpleITK.WriteImage(image, str(path))


CASES: list[tuple[Callable[[Path], None], str]] = [
    (nothing, "no such file"),
    (no_bytes, "the file is empty"),
    (noise, "other.nii.gz"),
    (truncated, "other.nii.gz"),
    (folder, "it is a folder"),
    (two_dimensional, "3-D"),
    (four_dimensional, "3-D"),
    (probability, "other.nii.gz is not a label map"),
    (computed_tomography, "other.nii.gz is not a label map"),
    (magnetic_resonance, "looks like a scan"),
    (not_a_number, "NaN"),
    (another_size, "size 12 x 10 x 8, "),
    (another_place, "origin (12, -34, 57) mm"),
]


@pytest.mark.parametrize("place", ["first", "second"])
@pytest.mark.parametrize(("make", "message"), CASES, ids=[make.__name__ for make, _ in CASES])
def test_bad_files(
    kdseg: Any, teacher: Path, work: Path, make: Callable[[Path], None], message: str, place: str
) -> None:
    other = work / "other.nii.gz"
    make(other)
    before = names(work)
    paths = (other, teacher) if place == "first" else (teacher, other)
    code, out, err = kdseg("compare", *paths, "--csv", work / "table.csv", "--disagreement", work / "map.nii.gz")
    assert code == 2, err
    assert err.splitlines()[-1].startswith("kdseg: ")
    assert message in err.splitlines()[-1]
    assert out == ""
    assert names(work) == before


def test_two_empty_segmentations(kdseg: Any, work: Path) -> None:
    paths = [write_scan(work / name, np.zeros(SHAPE, dtype=np.uint8)) for name in ("a.nii", "b.nii")]
    code, out, err = kdseg("compare", *paths)
    assert (code, out) == (2, "")
    assert "nothing to compare" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "liver"], "there is no pack 'liver'"),
        (["--labels", "missing.csv"], "missing.csv"),
        (["--tolerance", "-1"], "tolerance"),
        (["--tolerance", "nan"], "tolerance"),
        (["--tolerance", "wide"], "invalid float"),
        (["--csv", "table.txt"], ".csv"),
        (["--csv", "no-such-folder/table.csv"], "no-such-folder"),
        (["--disagreement", "map.png"], ".nii.gz"),
        (["--disagreement", "teacher.nii.gz"], "same file"),
        (["--disagreement", "student.nrrd"], "same file"),
    ],
)
def test_bad_options(
    kdseg: Any,
    teacher: Path,
    student: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(work)
    code, out, err = kdseg("compare", teacher, student, *options)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert names(work) == ["student.nrrd", "teacher.nii.gz"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no labels"),
        (b"label_value,label_name\n", "has no labels"),
        (b"value,name\n1,liver\n", "line 2: the columns label_value and label_name are needed"),
        (b"label_value,label_name\n1\n", "line 2: the columns"),
        (b"label_value,label_name\n1,liver\n1,spleen\n", "line 3: the label 1 is there twice"),
        (b"label_value,label_name\n0,background\n", "line 2: label_value: must be at least 1"),
        (b"label_value,label_name\n70000,liver\n", "line 2: label_value: must be at most 65535"),
        (b"label_value,label_name\n1.5,liver\n", "line 2: label_value: must be a whole number"),
        (b"label_value,label_name\n1,\n", "line 2: label_name: must be one line"),
        (b"label_value,label_name\n1,\x1b[2Jliver\n", "line 2: label_name: must be one line"),
        (b"label_value,label_name\n1,l\xe9sion\n", "not a CSV table in UTF-8"),
    ],
)
def test_bad_tables(kdseg: Any, teacher: Path, student: Path, work: Path, content: bytes, message: str) -> None:
    table = work / "names.csv"
    table.write_bytes(content)
    code, out, err = kdseg("compare", teacher, student, "--labels", table)
    assert (code, out) == (2, "")
    assert message in err
    assert "\x1b" not in err


@pytest.mark.parametrize(("name", "separator"), [("names.csv", ";"), ("names.tsv", "\t"), ("NAMES.CSV", ",")])
def test_tables_as_spreadsheets_write_them(
    kdseg: Any, teacher: Path, student: Path, work: Path, name: str, separator: str
) -> None:
    rows = (("label_value", "label_name", "note"), ("1", "liver", "a, b"), ("2", "spleen", ""))
    with (work / name).open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    code, out, err = kdseg("compare", teacher, student, "--labels", work / name)
    assert code == 0, err
    assert "liver" in out and "spleen" in out


def test_the_table_of_names_is_not_written_over(kdseg: Any, teacher: Path, student: Path, work: Path) -> None:
    table = work / "names.csv"
    table.write_text("label_value,label_name\n1,liver\n", encoding="utf-8")
    code, _, err = kdseg("compare", teacher, student, "--labels", table, "--csv", table)
    assert code == 2 and "same file" in err
    assert table.read_text(encoding="utf-8") == "label_value,label_name\n1,liver\n"


def test_ctrl_c_leaves_nothing_behind(
    kdseg: Any, teacher: Path, student: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = read_volume

    def read(path: Path, *, allow_constant: bool) -> object:
        if path == teacher:
            signal.raise_signal(signal.SIGINT)
        return original(path, allow_constant=allow_constant)

    monkeypatch.setattr("KDSegmentatorLib.cli.compare.read_volume", read)
    code, out, err = kdseg("compare", teacher, student, "--csv", work / "table.csv")
    assert (code, out) == (130, "")
    assert "cancelled" in err
    assert names(work) == ["student.nrrd", "teacher.nii.gz"]

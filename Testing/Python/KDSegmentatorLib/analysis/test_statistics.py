from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from KDSegmentatorLib.analysis.statistics import label_statistics, write_statistics
from KDSegmentatorLib.errors import GeometryError, ImageWriteError
from KDSegmentatorLib.geometry import Volume
from support.labels import label

SPACING = (0.5, 2.0, 3.0)
ORIGIN = (10.0, -20.0, 30.0)
LABELS = (label(1, "left"), label(2, "right"), label(3, "absent"))


def case() -> tuple[Volume, Volume]:
    """Return a segmentation and an image; label 1 is one voxel, label 2 is 2 x 3 x 4 voxels (z, y, x)."""
    labels = np.zeros((7, 8, 9), dtype=np.uint8)
    labels[6, 0, 8] = 1
    labels[1:3, 2:5, 3:7] = 2
    labels[0, 0, 0] = 9  # nobody asked for it
    intensities = np.arange(labels.size, dtype=np.float32).reshape(labels.shape) + 1e6
    turned = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    return Volume(labels, SPACING, ORIGIN, turned), Volume(intensities, SPACING, ORIGIN, turned)


def test_volume_intensity_and_place() -> None:
    segmentation, image = case()
    left, right, absent = label_statistics(segmentation, LABELS, image)
    assert (left.value, left.name, left.voxels) == (1, "left", 1)
    assert left.volume_ml == pytest.approx(0.003)
    assert left.mean_intensity == image.voxels[6, 0, 8]
    assert left.std_intensity == 0
    # i = 8 points to +P, j = 0 to -L, k = 6 to +S
    assert left.centroid == pytest.approx((10.0, -20.0 + 8 * 0.5, 30.0 + 6 * 3.0))
    inside = image.voxels[1:3, 2:5, 3:7].astype(np.float64)
    assert right.volume_ml == pytest.approx(24 * 0.003)
    assert right.mean_intensity == pytest.approx(inside.mean(), rel=1e-12)
    assert right.std_intensity == pytest.approx(inside.std(), rel=1e-9)
    assert right.centroid == pytest.approx((10.0 - 3 * 2.0, -20.0 + 4.5 * 0.5, 30.0 + 1.5 * 3.0))
    assert (absent.voxels, absent.volume_ml) == (0, 0.0)
    assert absent.mean_intensity is absent.std_intensity is absent.centroid is None


def test_the_axis_order_does_not_matter() -> None:
    segmentation, image = case()
    expected = label_statistics(segmentation, LABELS, image)
    for codes in ("LPS", "SAR", "AIL"):
        turned = label_statistics(segmentation.reoriented(codes), LABELS, image.reoriented(codes))
        for before, after in zip(expected, turned, strict=True):
            assert before.voxels == after.voxels
            assert before.centroid is None or after.centroid == pytest.approx(before.centroid)
            assert before.std_intensity is None or after.std_intensity == pytest.approx(before.std_intensity)


def test_large_volumes_in_slabs_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    segmentation, image = case()
    expected = label_statistics(segmentation, LABELS, image)
    monkeypatch.setattr("KDSegmentatorLib.analysis.statistics._SLAB_VOXELS", 1)
    for before, after in zip(expected, label_statistics(segmentation, LABELS, image), strict=True):
        assert before.voxels == after.voxels
        assert before.centroid is None or after.centroid == pytest.approx(before.centroid)


def test_another_grid_is_refused() -> None:
    segmentation, image = case()
    moved = Volume(image.voxels, SPACING, (10.0, -20.0, 31.0), image.direction)
    with pytest.raises(GeometryError, match="grid"):
        label_statistics(segmentation, LABELS, moved)


def test_table(tmp_path: Path) -> None:
    segmentation, image = case()
    path = tmp_path / "statistics.csv"
    path.write_text("old", encoding="utf-8")
    write_statistics(label_statistics(segmentation, LABELS, image), path, intensity_unit="HU")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "label_value",
        "label_name",
        "voxels",
        "volume_ml",
        "mean_intensity_HU",
        "std_intensity_HU",
        "centroid_L_mm",
        "centroid_P_mm",
        "centroid_S_mm",
    ]
    assert [row["label_name"] for row in rows] == ["left", "right", "absent"]
    assert float(rows[1]["volume_ml"]) == pytest.approx(0.072)
    assert rows[2]["voxels"] == "0"
    assert rows[2]["mean_intensity_HU"] == rows[2]["centroid_S_mm"] == ""
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_a_spreadsheet_shows_a_name_and_does_not_compute_it(start: str, tmp_path: Path) -> None:
    segmentation, image = case()
    name = f"{start}1+1"
    write_statistics(label_statistics(segmentation, [label(1, name)], image), tmp_path / "statistics.csv")
    with (tmp_path / "statistics.csv").open(encoding="utf-8", newline="") as file:
        assert [row["label_name"] for row in csv.DictReader(file)] == [f"'{name}"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageWriteError):
        write_statistics((), tmp_path / "missing" / "statistics.csv")

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from KDSegmentatorLib.analysis.comparison import COMPARISON_COLUMNS, Comparison, compare, write_comparison
from KDSegmentatorLib.analysis.overlap import dice
from KDSegmentatorLib.analysis.surface_distance import surface_agreement
from KDSegmentatorLib.errors import (
    CancelledError,
    GeometryError,
    ImageWriteError,
    InvalidSettingsError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.progress import Progress

SPACING = (0.5, 1.0, 4.0)
NAMES = {2: "liver", 1: "=SUM(A1)", 5: "absent", 3: "spleen"}


def case() -> tuple[Volume, Volume]:
    """Return label 1 in both, 2 in the first, 3 equal in both, 8 (without a name) in the second."""
    first, second = np.zeros((2, 8, 10, 12), dtype=np.uint8)
    first[1:4, 2:6, 2:7] = 1
    second[1:4, 2:6, 3:9] = 1
    first[6, 7, 8:10] = 2
    first[6, 1, 1] = second[6, 1, 1] = 3
    second[7, 9, 11] = 8
    origin = (10.0, -20.0, 30.0)
    return Volume(first, SPACING, origin), Volume(second, SPACING, origin)


def test_every_structure_in_the_order_asked_for() -> None:
    first, second = case()
    comparison = compare(first, second, NAMES, tolerance_mm=0.5)
    assert [(label.value, label.name) for label in comparison.labels] == list(NAMES.items())
    assert (comparison.unnamed, comparison.tolerance_mm, comparison.surface) == ((8,), 0.5, "voxels")
    scores = surface_agreement(first, second, NAMES, tolerance_mm=0.5)
    expected_dice = dice(first.voxels, second.voxels, NAMES)
    for label in comparison.labels:
        np.testing.assert_equal(label.dice, expected_dice[label.value])
        np.testing.assert_equal((label.nsd, label.hd95_mm), (scores[label.value].nsd, scores[label.value].hd95_mm))


def test_volumes_and_places() -> None:
    only_first, both, absent, equal = compare(*case(), NAMES).labels
    assert (both.first_ml, both.second_ml) == pytest.approx((60 * 2e-3, 72 * 2e-3))
    assert both.difference_ml == pytest.approx(12 * 2e-3)
    assert both.difference_percent == pytest.approx(20)
    assert both.largest_disagreement is not None
    assert both.largest_disagreement.volume_ml == pytest.approx(24 * 2e-3)  # i = 7 and 8, in three slices
    assert both.largest_disagreement.index[0] in (7, 8)
    assert (only_first.difference_ml, only_first.difference_percent) == pytest.approx((-4e-3, -100))
    assert only_first.largest_disagreement is not None
    i, j, k = only_first.largest_disagreement.index
    assert (j, k) == (7, 6) and i in (8, 9)
    assert only_first.largest_disagreement.position == pytest.approx((10 + i * 0.5, -20 + 7, 30 + 24))
    assert (equal.dice, equal.nsd, equal.hd95_mm, equal.largest_disagreement) == (1, 1, 0, None)
    assert (absent.first_ml, absent.second_ml, absent.difference_ml, absent.largest_disagreement) == (0, 0, 0, None)
    assert math.isnan(absent.difference_percent)


def test_means_leave_out_what_is_in_neither_and_hide_nothing() -> None:
    comparison = compare(*case(), NAMES)
    mean = comparison.mean
    assert mean.structures == 3
    scores = [label.dice for label in comparison.labels if label.value != 5]
    assert mean.dice == pytest.approx(sum(scores) / 3)
    assert mean.hd95_mm == math.inf
    nothing = compare(*case(), {5: "absent"}).mean
    assert nothing.structures == 0
    assert math.isnan(nothing.dice) and math.isnan(nothing.nsd) and math.isnan(nothing.hd95_mm)


def test_without_names_all_values_are_compared() -> None:
    comparison = compare(*case())
    assert [(label.value, label.name) for label in comparison.labels] == [
        (value, f"label {value}") for value in (1, 2, 3, 8)
    ]
    assert comparison.unnamed == ()


def test_the_surface_is_chosen() -> None:
    voxels, subvoxel = (compare(*case(), NAMES, surface=kind, tolerance_mm=0.1) for kind in ("voxels", "subvoxel"))
    assert voxels.labels[1].nsd != subvoxel.labels[1].nsd
    assert voxels.labels[1].hd95_mm == subvoxel.labels[1].hd95_mm


def test_progress_and_cancelling() -> None:
    seen: list[Progress] = []
    compare(*case(), NAMES, progress=seen.append)
    assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("compare", 3, 3)
    with pytest.raises(CancelledError):
        compare(*case(), NAMES, cancel=lambda: True)


def test_bad_input() -> None:
    first, second = case()
    titles = ("teacher.nii", "student.nii")
    with pytest.raises(
        GeometryError, match=r"teacher\.nii .*origin \(10, -20, 30\).*student\.nii .*origin \(0, 0, 0\)"
    ):
        compare(first, Volume(second.voxels, SPACING), titles=titles)
    with pytest.raises(UnsuitableVolumeError, match=r"student\.nii is not a label map"):
        compare(first, second.with_voxels(second.voxels - 0.5), titles=titles)
    empty = first.with_voxels(np.zeros_like(first.voxels))
    with pytest.raises(UnsuitableVolumeError, match=r"neither teacher\.nii nor student\.nii"):
        compare(empty, empty, titles=titles)
    with pytest.raises(InvalidSettingsError, match="foreground"):
        compare(first, second, {0: "background"})
    with pytest.raises(InvalidSettingsError, match="tolerance"):
        compare(first, second, tolerance_mm=-1)


def test_one_empty_segmentation_is_a_result() -> None:
    first, _ = case()
    comparison = compare(first, first.with_voxels(np.zeros_like(first.voxels)), NAMES)
    assert [label.dice for label in comparison.labels if label.value != 5] == [0, 0, 0]
    assert len(compare(first.with_voxels(np.zeros_like(first.voxels)), first).labels) == 3


def rows(comparison: Comparison, path: Path) -> list[dict[str, str]]:
    write_comparison(comparison, path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_table(tmp_path: Path) -> None:
    path = tmp_path / "comparison.csv"
    path.write_text("old", encoding="utf-8")
    comparison = compare(*case(), NAMES, tolerance_mm=0.25, surface="subvoxel")
    only_first, both, absent, equal = table = rows(comparison, path)
    assert list(both) == list(COMPARISON_COLUMNS)
    assert [row["label_value"] for row in table] == ["2", "1", "5", "3"]
    assert [row["label_name"] for row in table] == ["liver", "'=SUM(A1)", "absent", "spleen"]
    assert {(row["nsd_tolerance_mm"], row["nsd_surface"]) for row in table} == {("0.25", "subvoxel")}
    label = comparison.labels[1]
    assert label.largest_disagreement is not None
    for column, value in {
        "dice": label.dice,
        "nsd": label.nsd,
        "hd95_mm": label.hd95_mm,
        "first_ml": 0.12,
        "second_ml": 0.144,
        "difference_ml": 0.024,
        "difference_percent": 20,
        "largest_disagreement_ml": 0.048,
    }.items():
        assert float(both[column]) == pytest.approx(value, rel=1e-5), column
    place = [both[f"largest_disagreement_{axis}"] for axis in "ijk"]
    assert place == [str(n) for n in label.largest_disagreement.index]
    position = [float(both[f"largest_disagreement_{axis}_mm"]) for axis in "LPS"]
    assert position == pytest.approx(label.largest_disagreement.position)
    assert (only_first["dice"], only_first["hd95_mm"]) == ("0", "inf")
    assert absent["dice"] == absent["nsd"] == absent["hd95_mm"] == absent["difference_percent"] == ""
    assert equal["hd95_mm"] == "0" and equal["largest_disagreement_ml"] == equal["largest_disagreement_i"] == ""
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageWriteError):
        write_comparison(compare(*case()), tmp_path / "missing" / "comparison.csv")

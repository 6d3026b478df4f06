import json

import numpy as np
import pytest

from distillation.synthesis.label_maps import read_head, read_label_table
from KDSegmentatorLib.errors import TrainingError
from support.phantom_heads import BRAIN_RADII_MM, label_table, phantom_voxels, write_label_map, write_phantoms


@pytest.fixture
def table(tmp_path):
    return read_label_table(write_phantoms(tmp_path / "maps", 0))


def test_the_table(table):
    assert table.classes == 6
    assert table.brain == {2, 3, 4, 41}
    assert table.intensity_class[507] == 1
    assert table.prior[1].tolist() == [120.0, 2.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("t1_prior"), "cannot be read as a table"),
        (lambda t: t["t1_prior"].pop(0), "classes 0, 1, ... once each"),
        (lambda t: t["t1_prior"][1].update(mean_of_means=float("nan")), "once each, with numbers"),
        (lambda t: t["t1_prior"][1].update(std_of_stds=-1.0), "numbers from 0 on"),
        (lambda t: t["t1_intensity_class"].update({"507": 77}), "each with a class"),
        (lambda t: t["t1_intensity_class"].pop("507"), "same labels"),
        (lambda t: t["t1_intensity_class"].update({"0": 1}), "label 0 must be class 0"),
        (lambda t: t["segmentation_targets"].update({"0": 1}), "but not label 0"),
        (lambda t: t.update(segmentation_targets=dict.fromkeys(t["segmentation_targets"], 0)), "a target other than 0"),
        (lambda t: t.update(segmentation_targets=[1]), "cannot be read as a table"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, change, message):
    content = label_table()
    change(content)
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(TrainingError, match=rf"labels\.json.*{message}"):
        read_label_table(tmp_path)


def test_no_table(tmp_path):
    with pytest.raises(TrainingError, match=r"there is no .*labels\.json"):
        read_label_table(tmp_path)


def test_a_head(tmp_path, table):
    head = read_head(write_label_map(tmp_path / "a.head.nii.gz"), table)
    assert head.name == "a.head"
    assert head.classes.dtype == np.uint8
    assert head.distance.shape == head.classes.shape
    assert head.spacing == (2.0, 2.0, 2.0)
    middle = tuple(round(position / 2) for position in head.centre)
    assert head.distance[middle] < -30
    for axis, radius in enumerate(BRAIN_RADII_MM):
        extent = np.flatnonzero((head.distance < 0).any(axis=tuple(n for n in range(3) if n != axis)))
        assert abs((extent[-1] - extent[0] + 1) * 2.0 - 2 * radius) <= 4


@pytest.mark.parametrize("axis_codes", ["LIA", "PSR", "LPS"])
def test_the_stored_order_does_not_matter(tmp_path, table, axis_codes):
    stored = read_head(write_label_map(tmp_path / "a.nii.gz", axis_codes=axis_codes), table)
    plain = read_head(write_label_map(tmp_path / "b.nii.gz"), table)
    np.testing.assert_array_equal(stored.classes, plain.classes)
    np.testing.assert_array_equal(stored.distance, plain.distance)


def test_specks_behind_the_head_are_air(tmp_path, table):
    voxels = phantom_voxels()
    clean = read_head(write_label_map(tmp_path / "clean.nii.gz", voxels), table)
    voxels[30, 0:2, 30:33] = 24
    np.testing.assert_array_equal(
        read_head(write_label_map(tmp_path / "specks.nii.gz", voxels), table).classes, clean.classes
    )


def test_unusable_label_maps(tmp_path, table):
    def refused(voxels, message):
        path = write_label_map(tmp_path / "bad.nii.gz", voxels)
        with pytest.raises(TrainingError, match=message):
            read_head(path, table)

    voxels = phantom_voxels()
    refused(np.where(voxels == 515, 999, voxels).astype(np.uint16), "labels 999, which")
    refused(np.where(np.isin(voxels, (2, 3, 4, 41)), 507, voxels).astype(np.uint16), "no voxel of the brain")
    refused(np.full_like(voxels[:5, :5, :5], 3), "every voxel has the value 3")
    refused(voxels.astype(np.float32), "float32; a label map holds whole numbers")
    with pytest.raises(TrainingError, match="no such file"):
        read_head(tmp_path / "missing.nii.gz", table)
    (tmp_path / "text.nii.gz").write_text("text")
    with pytest.raises(TrainingError, match=r"text\.nii\.gz"):
        read_head(tmp_path / "text.nii.gz", table)

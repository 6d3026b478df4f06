"""The demo on the real template: the hippocampus must be where it is."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from KDSegmentatorLib import PackStore, Segmenter, read_volume

pytest.importorskip("nilearn", reason="the demo's T1 template comes with nilearn: pip install 'kdsegmentator[demo]'")

import hippocampus

ROOT = Path(__file__).parents[3]
FARTHEST_CENTRE_MM = 4.0
PLAUSIBLE_ML = (2.5, 5.5)
"""Training labels hold 2.2 to 4.3 ml (2.5 to 97.5 %) in native space; MNI space is larger than the average head."""


@pytest.fixture(scope="module")
def demo():
    return hippocampus


@pytest.fixture(scope="module")
def template(demo):
    return demo.load_template()


SHIPPED = [
    pack.manifest.size
    for pack in PackStore(user_folder=ROOT / "nothing").packs()
    if pack.manifest.task == "hippocampus"
]


def test_the_demos_size_is_shipped():
    assert "x1/4" in SHIPPED


@pytest.fixture(scope="module", params=SHIPPED)
def sides(request, demo, template, only_shipped_packs):
    return demo.segment_sides(template, Segmenter("hippocampus", request.param))


def test_template_is_the_real_one_in_mni_space(template):
    assert template.axis_codes == "RAS"
    assert template.spacing == (1.0, 1.0, 1.0)
    assert template.size == (197, 233, 189)
    assert 0.0 == template.voxels.min() < template.voxels.max() == 1.0


@pytest.mark.parametrize("side", ["right", "left"])
def test_crop_keeps_every_voxel_where_it_was(demo, template, side):
    box = demo.crop_hippocampus(template, side)
    assert box.size == (36, 50, 38)
    index = np.linalg.inv(template.affine) @ [*box.origin, 1.0]
    i, j, k = np.round(index[:3]).astype(int)
    np.testing.assert_allclose(index[:3], (i, j, k), atol=1e-6)
    np.testing.assert_array_equal(box.voxels, template.voxels[k : k + 38, j : j + 50, i : i + 36])
    middle = box.affine @ [*(length / 2 for length in box.size), 1.0]
    assert (middle[0] < 0) == (side == "right")  # L is positive
    assert np.linalg.norm(middle[:3] - np.array([-1, -1, 1]) * demo.HIPPOCAMPUS[side]) < 3


def test_hippocampus_is_where_it_is(demo, sides):
    assert [side.name for side in sides] == ["right", "left"]
    for side in sides:
        assert side.distance_mm < FARTHEST_CENTRE_MM
        assert (side.centroid[0] > 0) == (side.name == "right")
        assert PLAUSIBLE_ML[0] < side.volume_ml < PLAUSIBLE_ML[1]
        assert side.segmentation.record.warnings == ()
        anterior, posterior = side.statistics
        assert "nterior" in anterior.name
        assert anterior.centroid[1] < posterior.centroid[1] - 10  # P grows towards the back
        assert anterior.centroid[2] < posterior.centroid[2] - 5  # and the tail rises


def test_sides_of_the_symmetric_template_agree(sides):
    right, left = sides
    mirrored = (-left.centroid[0], *left.centroid[1:])
    assert np.linalg.norm(np.subtract(right.centroid, mirrored)) < 1
    assert right.volume_ml == pytest.approx(left.volume_ml, rel=0.1)


def test_picture_holds_both_sides_at_their_places(demo, template, sides):
    scan, labels, values = demo.combine(template, sides)
    assert [label.name[-1] for label in labels] == ["R", "R", "L", "L"]
    assert len({label.color for label in labels}) == 4
    for side, (first, second) in zip(sides, [(1, 2), (3, 4)], strict=True):
        found = np.argwhere((values.voxels == first) | (values.voxels == second))
        assert len(found) == sum(row.voxels for row in side.statistics)
        centre = scan.affine @ [*found.mean(axis=0)[::-1], 1.0]
        np.testing.assert_allclose(centre[:3] * [-1, -1, 1], side.centroid, atol=1e-6)


def test_demo_writes_everything(demo, tmp_path, capsys):
    assert demo.main(["--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "hippocampus-x1_4" in printed
    assert "mm from the known place" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "left-labels.nii.gz",
        "left.nii.gz",
        "overlay.png",
        "right-labels.nii.gz",
        "right.nii.gz",
        "runs.json",
        "volumes.csv",
    }
    with (tmp_path / "out" / "volumes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for side in ("right", "left"):
        labels = read_volume(tmp_path / "out" / f"{side}-labels.nii.gz")
        assert labels.same_grid(read_volume(tmp_path / "out" / f"{side}.nii.gz"))
        for row in rows:
            if row["side"] == side:
                assert int(row["voxels"]) == np.count_nonzero(labels.voxels == int(row["label_value"])) > 0
    runs = json.loads((tmp_path / "out" / "runs.json").read_text(encoding="utf-8"))
    assert runs["right"]["size"] == "x1/4"


def test_missing_size_is_one_clear_line(demo, tmp_path, capsys):
    assert demo.main(["--size", "x1/64", "--output", str(tmp_path / "out")]) == 1
    assert "x1/64" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

"""The demo on both real heads: every structure on its own side, and everything that is promised is written."""

import dataclasses
import importlib.util
import json
import sys

import numpy as np
import pytest

from KDSegmentatorLib import Segmenter, read_volume
from KDSegmentatorLib.errors import ImageReadError

pytest.importorskip("nilearn", reason="the demo's T1 template comes with nilearn: pip install 'kdsegmentator[demo]'")
if importlib.util.find_spec("pydeface") is None:
    pytest.skip("the demo's head comes with pydeface: pip install --no-deps pydeface", allow_module_level=True)

import brain
from real_heads import load_average_head, load_template

NEVER_FOUND = {"Optic chiasm"}
"""Of what the pack's own evaluation gives a Dice of 0: thinner than the voxels that it computes in."""

SIDES = ("Left ", "Right ")


@pytest.fixture(scope="module")
def demo():
    return brain


@pytest.fixture(scope="module")
def heads(demo, only_shipped_packs):
    return demo.segment_heads(Segmenter("brain-t1", "x1/2"))


@pytest.mark.parametrize(
    ("package", "module", "load"),
    [("nilearn", "nilearn.datasets", load_template), ("pydeface", "pydeface", load_average_head)],
)
def test_a_missing_package_is_named(monkeypatch, package, module, load):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(ImageReadError, match=rf"package {package}, which is missing: .* pip install .*{package}$"):
        load()


def test_both_packs_ran(heads):
    assert [head.name for head in heads] == ["head", "mni152"]
    for head in heads:
        assert head.segmentation.record.pack_id == "brain-t1-x1_2"
        assert head.segmentation.record.region.pack_id == "brain-extraction-x1_4"


def test_every_structure_is_found_on_its_own_side(heads):
    for head in heads:
        rows = {row.name: row for row in head.statistics}
        assert len(rows) == 45
        assert {name for name, row in rows.items() if row.voxels == 0} <= NEVER_FOUND
        middle = rows["Third ventricle"].centroid[0]
        for name, row in rows.items():
            if name.startswith(SIDES):
                assert (row.centroid[0] > middle) == name.startswith("Left"), name  # L is positive
        assert 30 < head.side_distance_mm < 80
        assert rows["Brain stem"].centroid[2] < rows["Left thalamus"].centroid[2]
        assert rows["Left frontal cortex"].centroid[1] < rows["Left occipital cortex"].centroid[1]  # P is positive


def test_sides_of_the_symmetric_template_agree(heads):
    template = heads[1]
    for name in ("hippocampus", "thalamus", "caudate", "putamen", "cerebral white matter"):
        left, right = (template.structure(side + name) for side in SIDES)
        assert left.volume_ml == pytest.approx(right.volume_ml, rel=0.15)
        mirrored = (-right.centroid[0], *right.centroid[1:])
        assert np.linalg.norm(np.subtract(left.centroid, mirrored)) < 3


def test_demo_writes_everything(demo, heads, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "segment_heads", lambda segmenter: heads)
    folder = tmp_path / "out"
    assert demo.main(["--output", str(folder)]) == 0
    printed = capsys.readouterr().out
    record = heads[0].segmentation.record
    assert (
        f"{record.region.pack_id} {record.region.pack_version}, then {record.pack_id} {record.pack_version}" in printed
    )
    for head in heads:
        assert f"{head.title}: {sum(row.voxels > 0 for row in head.statistics)} of 45 structures" in printed
    assert "not found" not in printed
    endings = (".nii.gz", "-labels.nii.gz", "-volumes.csv", "-overlay.png")
    assert {path.name for path in folder.iterdir()} == {
        "runs.json",
        *(name + ending for name in ("head", "mni152") for ending in endings),
    }
    runs = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
    for head in heads:
        labels = read_volume(folder / f"{head.name}-labels.nii.gz")
        assert labels.same_grid(read_volume(folder / f"{head.name}.nii.gz"))
        np.testing.assert_array_equal(labels.voxels, head.segmentation.volume.voxels)
        assert runs[head.name]["region"]["pack_id"] == "brain-extraction-x1_4"


def test_what_was_not_found_is_called_that(demo, heads, tmp_path):
    absent = {"voxels": 0, "volume_ml": 0.0, "mean_intensity": None, "std_intensity": None, "centroid": None}
    head = dataclasses.replace(
        heads[0],
        statistics=tuple(
            dataclasses.replace(row, **absent) if row.name == "Left hippocampus" else row for row in heads[0].statistics
        ),
    )
    printed = demo.summary([head], tmp_path)
    found = sum(row.voxels > 0 for row in heads[0].statistics)
    assert f"{found - 1} of 45 structures" in printed
    assert "left hippocampus not found, right hippocampus" in printed
    assert "nan" not in printed


def test_an_unknown_structure_is_an_error(heads):
    with pytest.raises(KeyError, match="Left hippopotamus"):
        heads[0].structure("Left hippopotamus")


def test_missing_size_is_one_clear_line(demo, tmp_path, capsys):
    assert demo.main(["--size", "x1/64", "--output", str(tmp_path / "out")]) == 1
    assert "x1/64" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

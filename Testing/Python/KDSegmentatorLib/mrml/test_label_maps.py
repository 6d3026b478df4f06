from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer

from KDSegmentatorLib.errors import GeometryError, SceneError
from KDSegmentatorLib.geometry import Vector
from KDSegmentatorLib.io.images import read_volume, write_volume
from KDSegmentatorLib.mrml.label_maps import label_volume, reference_volume, segment_values
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorLib.mrml.volumes import volume_from_node
from support.mrml_scene import (
    AXIS_ORDERS,
    LABELS,
    TILTED,
    UPRIGHT,
    MrmlScene,
    affine,
    placed,
    random_labels,
    segmentation_of,
)

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def blank(mrml: MrmlScene, name: str, segments: str) -> Any:
    """Return a segmentation with empty segments, as drawn by hand."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(mrml.scene)  # registers the representations
    node = mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    for each in segments:
        node.GetSegmentation().AddEmptySegment(each, each)
    del logic
    return node


@pytest.mark.parametrize("degrees", [UPRIGHT, TILTED], ids=["upright", "oblique"])
@pytest.mark.parametrize("codes", AXIS_ORDERS[::5])
@pytest.mark.parametrize("transformed", [False, True], ids=["plain", "transformed"])
def test_there_and_back(mrml: MrmlScene, codes: str, degrees: Vector, transformed: bool) -> None:
    reference = mrml.volume_node(placed(SCAN, codes, degrees))
    if transformed:
        mrml.linear_transform(affine((10, 20, 30), (1, 2, 3)), reference)
    volume = volume_from_node(reference)
    node = segmentation_node(segmentation_of(volume.with_voxels(random_labels(SHAPE))), reference)
    result = label_volume(node)
    assert reference_volume(node) is reference
    assert result.same_grid(volume)
    assert result.voxels.dtype == np.uint8
    np.testing.assert_array_equal(result.voxels, random_labels(SHAPE))


def test_another_grid(mrml: MrmlScene) -> None:
    """A segmentation under its own transform, wanted on a volume that is elsewhere."""
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    mrml.linear_transform(affine(shift=(0.8 * 2, 0, 0)), node)
    result = label_volume(node, reference_node=reference)
    assert result.same_grid(volume_from_node(reference))
    np.testing.assert_array_equal(result.voxels[:, :, :4], random_labels(SHAPE)[:, :, 2:])


def test_without_the_volume(mrml: MrmlScene) -> None:
    volume = placed(SCAN, "RAS", TILTED)
    reference = mrml.volume_node(volume)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:4, 3] = 2
    node = segmentation_node(segmentation_of(volume.with_voxels(labels)), reference)
    mrml.scene.RemoveNode(reference)
    result = label_volume(node)
    assert result.size == (1, 2, 2)
    assert (result.voxels == 2).all()
    assert result.affine[:3, 3] == pytest.approx((volume.affine @ [3, 2, 1, 1])[:3])


def test_chosen_segments_with_chosen_values(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    result = label_volume(node, values={"Segment_3": 300, "Segment_1": 7})
    assert result.voxels.dtype == np.uint16
    expected = np.select([random_labels(SHAPE) == 3, random_labels(SHAPE) == 1], [300, 7], 0)
    np.testing.assert_array_equal(result.voxels, expected)


def test_values_that_are_not_unique_are_numbered(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    assert segment_values(node) == {f"Segment_{label.value}": label.value for label in LABELS}
    drawn = blank(mrml, "Drawn", "AB")
    assert segment_values(drawn) == {"A": 1, "B": 2}


def test_it_can_be_written(mrml: MrmlScene, tmp_path: Path) -> None:
    volume = placed(SCAN, "ASR", TILTED)
    reference = mrml.volume_node(volume)
    node = segmentation_node(segmentation_of(volume.with_voxels(random_labels(SHAPE))), reference)
    write_volume(label_volume(node), tmp_path / "labels.nii.gz")
    written = read_volume(tmp_path / "labels.nii.gz")
    assert written.same_grid(volume)
    np.testing.assert_array_equal(written.voxels, random_labels(SHAPE))


class TestBadInput:
    def test_no_segments(self, mrml: MrmlScene) -> None:
        with pytest.raises(SceneError, match="“Empty” has no segments"):
            label_volume(mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty"))

    def test_nothing_tells_the_grid(self, mrml: MrmlScene) -> None:
        node = blank(mrml, "Blank", "A")
        with pytest.raises((GeometryError, SceneError), match="“Blank”"):
            label_volume(node)

    def test_non_linear_transform(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
        mrml.bending_transform(node)
        with pytest.raises(GeometryError, match="non-linear"):
            label_volume(node)

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


class _Unmerged:
    """A segmentation node whose segments Slicer does not go through one by one."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        assert name != "GenerateMergedLabelmapForAllSegments"
        return getattr(self._node, name)


@pytest.mark.parametrize("transformed", [False, True], ids=["plain", "transformed"])
def test_a_shared_label_map_is_taken_as_it_is(mrml: MrmlScene, transformed: bool) -> None:
    reference = mrml.volume_node(placed(SCAN, "ASR", TILTED))
    if transformed:
        mrml.linear_transform(affine((10, 20, 30), (1, 2, 3)), reference)
    reference.GetImageData().SetExtent(2, 7, 3, 7, 5, 8)
    volume = volume_from_node(reference)
    node = segmentation_node(segmentation_of(volume.with_voxels(random_labels(SHAPE))), reference)
    values = {"Segment_3": 300, "Segment_1": 7}
    found = label_volume(_Unmerged(node), values=values)
    assert found.same_grid(volume)
    assert found.voxels.dtype == np.uint16
    expected = np.select([random_labels(SHAPE) == 3, random_labels(SHAPE) == 1], [300, 7], 0)
    np.testing.assert_array_equal(found.voxels, expected)


@pytest.mark.parametrize("change", ["layer", "values", "grid", "direction"])
def test_what_is_not_one_label_map_on_the_grid_is_merged(mrml: MrmlScene, change: str) -> None:
    """Segments of a user's own: overlapping, with the same value, or on another grid."""
    reference = mrml.volume_node(placed(SCAN))
    labels = random_labels(SHAPE)
    node = segmentation_node(segmentation_of(placed(labels)), reference)
    segments = node.GetSegmentation()
    expected = labels.copy()
    if change == "layer":
        own = slicer.vtkOrientedImageData()
        own.DeepCopy(segments.GetSegment("Segment_2").GetRepresentation("Binary labelmap"))
        segments.GetSegment("Segment_2").AddRepresentation("Binary labelmap", own)
    elif change == "values":
        segments.GetSegment("Segment_2").SetLabelValue(3)
        expected[labels == 3] = 2  # the last one counts
        expected[labels == 2] = 0
    elif change == "grid":
        mrml.linear_transform(affine(shift=(0.8, 0, 0)), node)
        expected = np.concatenate([labels[:, :, 1:], np.zeros((*SHAPE[:2], 1), np.uint8)], axis=2)
    else:
        reference = mrml.volume_node(placed(SCAN[:, :, ::-1].copy(), "RPS", origin=(-31.5 + 0.8 * 5, 17.25, 104.0)))
        expected = labels[:, :, ::-1]
    found = label_volume(node, values={"Segment_1": 1, "Segment_3": 3, "Segment_2": 2}, reference_node=reference)
    np.testing.assert_array_equal(found.voxels, expected)


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

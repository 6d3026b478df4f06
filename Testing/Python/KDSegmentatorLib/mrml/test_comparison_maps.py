from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.analysis.disagreement import checkerboard, disagreement_map
from KDSegmentatorLib.mrml.comparisons import (
    checkerboard_node,
    comparable_label_maps,
    disagreement_colors,
    disagreement_node,
)
from KDSegmentatorLib.mrml.label_maps import label_volume
from KDSegmentatorLib.mrml.nodes import remove_node
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from support.mrml_scene import LABELS, TILTED, MrmlScene, placed, random_labels, segmentation_of

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def test_disagreement_is_where_it_is(mrml: MrmlScene) -> None:
    volume = placed(SCAN, "RIA", TILTED)
    reference = mrml.volume_node(volume)
    one, other = random_labels(SHAPE), random_labels(SHAPE, 1)
    found = disagreement_map(volume.with_voxels(one), volume.with_voxels(other))
    node = disagreement_node(
        found, mrml.scene, name="Disagreement", titles=("x1", "x1/4"), colors=disagreement_colors([])
    )
    segments = node.GetSegmentation()
    names = [segments.GetSegment(each).GetName() for each in segments.GetSegmentIDs()]
    assert names == ["only in x1", "only in x1/4", "another structure in each"]
    result = label_volume(node, reference_node=reference)
    np.testing.assert_array_equal(result.voxels, found.voxels)


def test_a_checkerboard_has_both_by_turns(mrml: MrmlScene) -> None:
    volume = placed(SCAN, "RIA", TILTED)
    reference = mrml.volume_node(volume)
    one, other = random_labels(SHAPE), random_labels(SHAPE, 1)
    first = segmentation_node(segmentation_of(volume.with_voxels(one)), reference)
    pink = replace(LABELS[0], color=(255, 0, 255))  # the colours are those of the first
    second = segmentation_node(segmentation_of(volume.with_voxels(other), (pink, *LABELS[1:])), reference)
    maps = comparable_label_maps(first, second)
    node = checkerboard_node(checkerboard(maps.first, maps.second), maps.names, first, second, name="Both")
    k, j, i = np.indices(SHAPE)
    odd = (k // 2 + j // 2 + i // 2) % 2 == 1
    number = np.zeros(4, np.uint8)  # of the structures, which are numbered in the order of the label table
    number[[label.value for label in LABELS]] = [1, 2, 3]
    result = label_volume(node, reference_node=reference)
    np.testing.assert_array_equal(result.voxels, number[np.where(odd, other, one)])
    segments = node.GetSegmentation()
    found = [segments.GetSegment(each) for each in segments.GetSegmentIDs()]
    assert [segment.GetName() for segment in found] == [label.name for label in LABELS]
    for segment, label in zip(found, LABELS, strict=True):
        np.testing.assert_allclose(segment.GetColor(), np.array(label.color) / 255)


def test_a_map_has_a_place_in_the_data_tree_that_is_not_shown(mrml: MrmlScene) -> None:
    """Without one, Slicer complains about every segment."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(mrml.scene)
    volume = placed(SCAN)
    found = disagreement_map(volume.with_voxels(random_labels(SHAPE)), volume.with_voxels(random_labels(SHAPE, 1)))
    node = disagreement_node(
        found, mrml.scene, name="Disagreement", titles=("x1", "x1/4"), colors=disagreement_colors([])
    )
    item = hierarchy.GetItemByDataNode(node)
    assert item != hierarchy.GetInvalidItemID()
    excluded = slicer.vtkMRMLSubjectHierarchyConstants.GetSubjectHierarchyExcludeFromTreeAttributeName()
    assert hierarchy.GetItemAttribute(item, excluded) == "1"
    remove_node(node)
    assert hierarchy.GetNumberOfItems() == 0


def test_a_map_is_in_the_data_tree_whenever_slicer_looks_there(mrml: MrmlScene) -> None:
    """At every event of its display or segments; else Slicer writes an error for each."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(mrml.scene)
    places: list[int] = []
    events = [slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent, slicer.vtkSegmentation.SegmentModified]

    def watch(_scene: object, _event: object) -> None:
        node = mrml.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        if node is not None and not places:
            places.append(-1)
            for event in events:
                node.AddObserver(event, lambda *_: places.append(hierarchy.GetItemByDataNode(node)))

    mrml.scene.AddObserver(mrml.scene.NodeAddedEvent, watch)
    volume = placed(SCAN)
    found = disagreement_map(volume.with_voxels(random_labels(SHAPE)), volume.with_voxels(random_labels(SHAPE, 1)))
    colors = disagreement_colors([])
    node = disagreement_node(found, mrml.scene, name="Disagreement", titles=("A", "B"), colors=colors)
    shown = len(places)
    remove_node(node)
    assert len(places) > shown > 1, "the display comes and goes"
    assert hierarchy.GetInvalidItemID() not in places


def test_a_disagreement_has_other_colours_than_the_structures(mrml: MrmlScene) -> None:
    """Orange and blue are those of the hippocampus packs."""
    volume = placed(SCAN)
    reference = mrml.volume_node(volume)
    orange, blue = (replace(LABELS[n], color=color) for n, color in enumerate(((230, 159, 0), (86, 180, 233))))
    node = segmentation_node(segmentation_of(volume.with_voxels(random_labels(SHAPE)), (orange, blue)), reference)
    usual, others = disagreement_colors([]), disagreement_colors([node])
    assert not set(usual.values()) & set(others.values())
    assert len(set(others.values())) == 3

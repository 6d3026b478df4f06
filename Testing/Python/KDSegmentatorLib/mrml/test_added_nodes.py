"""What those see who watch the scene: nodes that are complete when they are added, and one change of the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer
import vtk

from KDSegmentatorLib.analysis.disagreement import disagreement_map
from KDSegmentatorLib.analysis.statistics import label_statistics
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.mrml.comparisons import disagreement_colors, disagreement_node
from KDSegmentatorLib.mrml.results import place_result
from KDSegmentatorLib.mrml.volumes import volume_from_node
from support.mrml_scene import LABELS, RECORD, MrmlScene, affine, placed, random_labels

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def added(mrml: MrmlScene, act: Callable[[], Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return what the nodes were when they were added, by class, and the scene's states in between."""
    seen: dict[str, dict[str, Any]] = {}
    states: list[str] = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def look(_scene: Any, _event: str, node: Any) -> None:
        found: dict[str, Any] = {
            "batch": mrml.scene.IsBatchProcessing(),
            "pack": node.GetAttribute("KDSegmentator.pack_id"),
        }
        if node.IsA("vtkMRMLTransformableNode"):
            found["transform"] = node.GetTransformNodeID()
        if node.IsA("vtkMRMLSegmentationNode"):
            found["segments"] = node.GetSegmentation().GetNumberOfSegments()
            found["reference"] = node.GetNodeReferenceID("referenceImageGeometryRef")
            found["temporary"] = not node.GetSaveWithScene() and bool(node.GetHideFromEditors())
        if node.IsA("vtkMRMLTableNode"):
            found["rows"] = node.GetNumberOfRows()
        if node.IsA("vtkMRMLScalarVolumeNode"):
            found["size"] = None if node.GetImageData() is None else node.GetImageData().GetDimensions()
        seen[node.GetClassName()] = found

    scene = mrml.scene
    observers = [
        scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, look),
        scene.AddObserver(slicer.vtkMRMLScene.StartBatchProcessEvent, lambda *_: states.append("start")),
        scene.AddObserver(slicer.vtkMRMLScene.EndBatchProcessEvent, lambda *_: states.append("end")),
    ]
    act()
    for observer in observers:
        scene.RemoveObserver(observer)
    return seen, states


def test_a_result(mrml: MrmlScene) -> None:
    node = mrml.volume_node(placed(SCAN))
    transform = mrml.linear_transform(affine((10, 20, 30), (1, 2, 3)), node)
    volume = volume_from_node(node)
    entropy = volume.with_voxels(np.zeros(SHAPE, np.float32))
    labels = volume.with_voxels(random_labels(SHAPE))
    found = Segmentation(volume=labels, labels=LABELS, record=RECORD, entropy=entropy)
    seen, states = added(mrml, lambda: place_result(found, label_statistics(labels, LABELS, volume), node))
    assert states == ["start", "end"]
    assert all(each["batch"] for each in seen.values())
    assert seen["vtkMRMLSegmentationNode"] == {
        "batch": True,
        "pack": RECORD.pack_id,
        "transform": transform.GetID(),
        "segments": 3,
        "reference": node.GetID(),
        "temporary": False,
    }
    assert seen["vtkMRMLTableNode"]["rows"] == 3
    assert seen["vtkMRMLScalarVolumeNode"]["size"] == SHAPE[::-1]
    assert seen["vtkMRMLScalarVolumeNode"]["transform"] == transform.GetID()


def test_a_map_of_two_segmentations_is_there_to_be_looked_at_only(mrml: MrmlScene) -> None:
    volume = placed(SCAN)
    found = disagreement_map(volume.with_voxels(random_labels(SHAPE)), volume.with_voxels(random_labels(SHAPE, 1)))
    nodes: list[Any] = []
    seen, states = added(
        mrml,
        lambda: nodes.append(
            disagreement_node(
                found, mrml.scene, name="Disagreement", titles=("x1", "x1/4"), colors=disagreement_colors([])
            )
        ),
    )
    assert states == ["start", "end"]
    assert seen["vtkMRMLSegmentationNode"]["segments"] == 3
    assert seen["vtkMRMLSegmentationNode"]["temporary"]
    mrml.scene.SetSaveToXMLString(1)
    mrml.scene.Commit()
    text = mrml.scene.GetSceneXMLString()
    assert "Disagreement" not in text
    assert nodes[0].GetDisplayNodeID() not in text


def test_an_error_ends_the_change_of_the_scene(mrml: MrmlScene) -> None:
    node = mrml.volume_node(placed(SCAN))
    found = Segmentation(volume=placed(random_labels((4, 5, 7))), labels=LABELS, record=RECORD)
    with pytest.raises(Exception, match="does not lie on the voxels"):
        place_result(found, (), node)
    assert not mrml.scene.IsBatchProcessing()

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from KDSegmentatorLib.mrml.segmentations import add_surface, segmentation_node
from support.mrml_scene import TILTED, MrmlScene, placed, segmentation_of

SURFACE = "Closed surface"


def points(node: Any, number: int) -> Any:
    surface = node.GetSegmentation().GetNthSegment(number).GetRepresentation(SURFACE)
    return None if surface is None else vtk_to_numpy(surface.GetPoints().GetData())


@pytest.fixture
def nodes(mrml: MrmlScene) -> list[Any]:
    """Return the same result twice; its structures share one label map and touch each other."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(mrml.scene)  # registers the conversion to surfaces
    voxels = np.zeros((12, 13, 14), np.uint8)
    voxels[2:6, 2:9, 3:9], voxels[6:10, 2:9, 3:9] = 1, 3
    volume = placed(np.zeros(voxels.shape, np.int16), "RAS", TILTED)
    reference = mrml.volume_node(volume)
    return [segmentation_node(segmentation_of(volume.with_voxels(voxels)), reference) for _ in range(2)]


def test_one_at_a_time_gives_what_all_at_once_gives(nodes: list[Any]) -> None:
    at_once, one_by_one = nodes
    for node in nodes:
        node.GetSegmentation().SetConversionParameter("Smoothing factor", "0.25")
    at_once.CreateClosedSurfaceRepresentation()
    ids = one_by_one.GetSegmentation().GetSegmentIDs()
    add_surface(one_by_one, ids[0])
    assert points(one_by_one, 0) is not None
    assert points(one_by_one, 1) is None
    add_surface(one_by_one, ids[1])
    before = one_by_one.GetSegmentation().GetNthSegment(0).GetRepresentation(SURFACE)
    one_by_one.CreateClosedSurfaceRepresentation()
    assert one_by_one.GetSegmentation().GetNthSegment(0).GetRepresentation(SURFACE) is before
    for number in (0, 1):
        np.testing.assert_array_equal(points(one_by_one, number), points(at_once, number))


def test_a_segment_that_was_removed_is_left_out(nodes: list[Any]) -> None:
    add_surface(nodes[0], "removed")
    assert not nodes[0].GetSegmentation().ContainsRepresentation(SURFACE)

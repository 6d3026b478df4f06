from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from KDSegmentatorLib.mrml.segmentations import add_surfaces, make_surface, segmentation_node
from support.mrml_scene import TILTED, MrmlScene, placed, segmentation_of

SURFACE = "Closed surface"


def points(node: Any, number: int) -> Any:
    surface = node.GetSegmentation().GetNthSegment(number).GetRepresentation(SURFACE)
    empty = surface is None or surface.GetNumberOfPoints() == 0
    return None if empty else vtk_to_numpy(surface.GetPoints().GetData())


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
    made = {each: make_surface(one_by_one, each) for each in ids}
    assert points(one_by_one, 0) is None
    add_surfaces(one_by_one, made)
    for number, each in enumerate(ids):
        assert one_by_one.GetSegmentation().GetSegment(each).GetRepresentation(SURFACE) is made[each]
        expected = points(at_once, number)
        assert (expected is None) == (number == 2), "the third structure was not found"
        if expected is not None:
            np.testing.assert_array_equal(points(one_by_one, number), expected)
        assert make_surface(one_by_one, each) is None


def test_a_segment_that_was_removed_is_left_out(nodes: list[Any]) -> None:
    segmentation = nodes[0].GetSegmentation()
    assert make_surface(nodes[0], "removed") is None
    ids = segmentation.GetSegmentIDs()
    made = {each: make_surface(nodes[0], each) for each in ids}
    segmentation.RemoveSegment(ids[0])
    add_surfaces(nodes[0], made)
    assert segmentation.GetSegmentIDs() == ids[1:]
    assert segmentation.GetSegment(ids[1]).GetRepresentation(SURFACE) is made[ids[1]]

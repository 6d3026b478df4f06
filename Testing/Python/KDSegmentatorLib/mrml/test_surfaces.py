from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorLib.mrml.surfaces import (
    add_surfaces,
    layers_without_surfaces,
    make_meshes,
)
from support.mrml_scene import TILTED, MrmlScene, placed, segmentation_of

SURFACE = "Closed surface"


def surface(node: Any, number: int) -> Any:
    return node.GetSegmentation().GetNthSegment(number).GetRepresentation(SURFACE)


def points(node: Any, number: int) -> Any:
    found = surface(node, number)
    return np.zeros((0, 3)) if found.GetNumberOfPoints() == 0 else vtk_to_numpy(found.GetPoints().GetData())


def result(mrml: MrmlScene, codes: str = "RAS") -> Any:
    """Return a result of three structures: two share one label map and touch each other, the third was not found."""
    voxels = np.zeros((12, 13, 14), np.uint8)
    voxels[2:6, 2:9, 3:9], voxels[6:10, 2:9, 3:9] = 1, 3
    voxels[0, 0, 0] = 1  # at the edge of the grid
    volume = placed(np.zeros(voxels.shape, np.int16), codes, TILTED)
    return segmentation_node(segmentation_of(volume.with_voxels(voxels)), mrml.volume_node(volume))


@pytest.fixture
def node(mrml: MrmlScene) -> Any:
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(mrml.scene)  # registers the conversion to surfaces
    return result(mrml)


@pytest.mark.parametrize(("codes", "smoothing"), [("RAS", "0.5"), ("LPS", "0.25"), ("SLA", "0")])
def test_the_surfaces_are_those_that_slicer_makes(mrml: MrmlScene, node: Any, codes: str, smoothing: str) -> None:
    ours, slicers = result(mrml, codes), result(mrml, codes)
    for each in (ours, slicers):
        each.GetSegmentation().SetConversionParameter("Smoothing factor", smoothing)
    layers = layers_without_surfaces(ours)
    assert [len(layer.values) for layer in layers] == [3], "they share one label map"
    add_surfaces(ours, make_meshes(layers), layers)
    slicers.CreateClosedSurfaceRepresentation()
    for number in range(3):
        expected = points(slicers, number)
        np.testing.assert_allclose(points(ours, number), expected, atol=1e-3)
        assert (len(expected) == 0) == (number == 2)
    assert layers_without_surfaces(ours) == []


@pytest.mark.parametrize("codes", ["RAS", "LAS"])  # LAS: left-handed
def test_the_outside_is_outside(mrml: MrmlScene, node: Any, codes: str) -> None:
    other = result(mrml, codes)
    mesh = make_meshes(layers_without_surfaces(other))["Segment_3"]
    outwards = mesh.points - mesh.points.mean(axis=0)
    assert ((mesh.normals * outwards).sum(axis=1) > 0).mean() > 0.95
    corners = mesh.points[mesh.triangles]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((faces * (corners.mean(axis=1) - mesh.points.mean(axis=0))).sum(axis=1) > 0).mean() > 0.95


def test_what_was_edited_or_removed_meanwhile_keeps_its_own_shape(node: Any) -> None:
    layers = layers_without_surfaces(node)
    meshes = make_meshes(layers)
    segmentation = node.GetSegmentation()
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))
    image = segmentation.GetNthSegment(0).GetRepresentation("Binary labelmap")
    image.GetPointData().GetScalars().Fill(0)
    image.SetScalarComponentFromDouble(5, 5, 5, 0, 3)
    image.Modified()
    add_surfaces(node, meshes, layers)
    assert 0 < len(points(node, 0)) < len(meshes["Segment_3"].points)

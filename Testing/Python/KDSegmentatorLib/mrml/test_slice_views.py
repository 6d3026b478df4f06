from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer

from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorLib.mrml.slice_views import hide, jump_slices, link_slices, show_in_views
from support.mrml_scene import MrmlScene, placed, random_labels, segmentation_of

SHAPE = (4, 5, 6)
NAMES = ("Red", "Yellow", "Green")


def views(mrml: MrmlScene) -> list[Any]:
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(mrml.scene)
    found = []
    for name, orientation in zip(NAMES, ("Axial", "Sagittal", "Coronal"), strict=True):
        node = mrml.scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        node.SetLayoutName(name)
        node.SetOrientation(orientation)
        found.append(node)
    return found


def test_all_views_are_centred_on_the_place(mrml: MrmlScene) -> None:
    """The library counts in LPS, Slicer in RAS."""
    nodes = views(mrml)
    jump_slices(mrml.scene, (10.0, -20.0, 30.0))
    for node in nodes:
        matrix = node.GetSliceToRAS()
        assert [matrix.GetElement(row, 3) for row in range(3)] == pytest.approx([-10, 20, 30])


def test_the_crosshair_shows_the_place(mrml: MrmlScene) -> None:
    views(mrml)
    crosshair = mrml.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    assert crosshair.GetCrosshairMode() == crosshair.NoCrosshair
    jump_slices(mrml.scene, (10.0, -20.0, 30.0))
    assert crosshair.GetCrosshairRAS() == (-10.0, 20.0, 30.0)
    assert crosshair.GetCrosshairMode() == crosshair.ShowBasic


def test_views_are_linked_and_unlinked(mrml: MrmlScene) -> None:
    nodes = [mrml.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode") for _ in NAMES]
    for linked in (True, False):
        link_slices(mrml.scene, linked)
        assert {bool(node.GetLinkedControl()) for node in nodes} == {linked}


def test_each_view_shows_its_own(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(np.zeros(SHAPE, np.int16)))
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    display = node.GetDisplayNode()
    show_in_views(node, ["vtkMRMLSliceNodeRed"], filled=False)
    assert display.IsDisplayableInView("vtkMRMLSliceNodeRed")
    assert not display.IsDisplayableInView("vtkMRMLSliceNodeYellow")
    assert (display.GetVisibility2DFill(), display.GetVisibility2DOutline()) == (False, True)
    hide(node)
    assert not display.GetVisibility()
    show_in_views(node, [])
    assert display.GetVisibility()
    assert display.IsDisplayableInView("vtkMRMLSliceNodeYellow")
    assert display.GetVisibility2DFill()

"""Where the slice views look, and which segmentation each of them shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from KDSegmentatorLib.geometry import Vector

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationNode


def jump_slices(scene: vtkMRMLScene, position: Vector) -> None:
    """Centre all slice views on a point, and show it by the crosshair.

    Args:
        scene: of the views.
        position: (L, P, S) in mm.
    """
    left, posterior, superior = position
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")):
        scene.GetNthNodeByClass(number, "vtkMRMLSliceNode").JumpSliceByCentering(-left, -posterior, superior)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(-left, -posterior, superior)
        crosshair.SetCrosshairMode(crosshair.ShowBasic)


def link_slices(scene: vtkMRMLScene, linked: bool) -> None:
    """Make all slice views move together, or each for itself."""
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        scene.GetNthNodeByClass(number, "vtkMRMLSliceCompositeNode").SetLinkedControl(linked)


def show_in_views(node: vtkMRMLSegmentationNode, view_ids: Sequence[str], *, filled: bool = True) -> None:
    """Show a segmentation in some views only, filled or as outlines.

    Args:
        node: the segmentation.
        view_ids: ids of view nodes, for example ``vtkMRMLSliceNodeRed``; empty for all.
        filled: whether the segments are filled; their outlines are shown in any case.
    """
    display = node.GetDisplayNode()
    if display is None:
        return
    display.RemoveAllViewNodeIDs()
    for view_id in view_ids:
        display.AddViewNodeID(view_id)
    display.SetVisibility2DFill(filled)
    display.SetVisibility2DOutline(True)
    display.SetVisibility(True)


def hide(node: vtkMRMLSegmentationNode) -> None:
    """Hide a segmentation in all views."""
    display = node.GetDisplayNode()
    if display is not None:
        display.SetVisibility(False)

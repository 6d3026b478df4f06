"""Where results are in the data tree, and how they are taken out of the scene again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.mrml.grids import quoted

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScene


def place_beside(node: vtkMRMLNode, reference_node: vtkMRMLNode) -> None:
    """Put a node under the subject-hierarchy parent of another one, if that has one.

    Raises:
        SceneError: Slicer did not do it.
    """
    hierarchy = _hierarchy(node.GetScene())
    if hierarchy is None:
        return
    invalid = hierarchy.GetInvalidItemID()
    reference_item = hierarchy.GetItemByDataNode(reference_node)
    parent = hierarchy.GetItemParent(reference_item) if reference_item != invalid else invalid
    if parent == invalid:
        return
    if hierarchy.CreateItem(parent, node) == invalid:  # takes the item that Slicer has made already
        raise SceneError(f"Slicer could not put {quoted(node)} beside {quoted(reference_node)} in the data tree")


def dicom_item(node: vtkMRMLNode) -> int | None:
    """Return a node's subject-hierarchy item if it is under a study of a patient, as DICOM export needs it."""
    import slicer

    hierarchy = _hierarchy(node.GetScene())
    if hierarchy is None:
        return None
    levels = slicer.vtkMRMLSubjectHierarchyConstants
    item = hierarchy.GetItemByDataNode(node)
    above = item
    for level in (levels.GetDICOMLevelStudy(), levels.GetDICOMLevelPatient()):
        above = hierarchy.GetItemParent(above) if above != hierarchy.GetInvalidItemID() else above
        if above == hierarchy.GetInvalidItemID() or not hierarchy.IsItemLevel(above, level):
            return None
    return int(item)


def remove_node(node: vtkMRMLNode) -> None:
    """Take a node with its display and its place in the data tree out of its scene, if it is in one."""
    scene = node.GetScene()
    if scene is None:
        return
    hierarchy = _hierarchy(scene)
    if hierarchy is not None:
        item = hierarchy.GetItemByDataNode(node)
        if item != hierarchy.GetInvalidItemID():
            hierarchy.RemoveItem(item, False)
    display = node.GetDisplayNode() if node.IsA("vtkMRMLDisplayableNode") else None
    if display is not None:
        scene.RemoveNode(display)
    scene.RemoveNode(node)


def _hierarchy(scene: vtkMRMLScene) -> Any:
    """Return the subject hierarchy, None if the scene has none; does not make one."""
    if scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode") is None:
        return None
    return scene.GetSubjectHierarchyNode()

"""How results come into the scene, where they are in the data tree, and how they are taken out again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.mrml.grids import quoted

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScene, vtkMRMLSegmentationNode


@contextlib.contextmanager
def scene_batch(scene: vtkMRMLScene) -> Iterator[None]:
    """Let views and data tree take over what is done to the scene once, at the end."""
    from slicer import vtkMRMLScene

    scene.StartState(vtkMRMLScene.BatchProcessState)
    try:
        yield
    finally:
        scene.EndState(vtkMRMLScene.BatchProcessState)


def new_node(class_name: str, scene: vtkMRMLScene, *, name: str) -> Any:
    """Return a node that is not in the scene yet: whoever watches the scene shall see it complete.

    Args:
        class_name: of MRML.
        scene: for which.
        name: of the node; a number is added if the scene has it already.

    Raises:
        SceneError: Slicer did not make it.
    """
    node = scene.CreateNodeByClass(class_name)
    if node is None:
        raise SceneError(f"Slicer could not make “{name}” ({class_name}); save the scene and restart Slicer")
    node.UnRegister(None)  # the caller of CreateNodeByClass has to do that
    node.SetName(scene.GenerateUniqueName(name))
    return node


def add_node(node: vtkMRMLNode, scene: vtkMRMLScene) -> None:
    """Add a node that :func:`new_node` made.

    Raises:
        SceneError: Slicer did not take it.
    """
    if scene.AddNode(node) is None:
        raise SceneError(f"Slicer could not add {quoted(node)} to the scene; save the scene and restart Slicer")


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


def dicom_item(node: vtkMRMLSegmentationNode) -> int:
    """Return the subject-hierarchy item of a segmentation that Slicer can export to DICOM.

    Raises:
        SceneError: Slicer cannot; the message says what is missing.
    """
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    if volume is None:
        raise SceneError(
            f"the volume that {quoted(node)} was made on is not in the scene, and DICOM export refers to its images; "
            "load the volume and segment again"
        )
    if not (volume.GetAttribute("DICOM.instanceUIDs") or "").split():
        raise SceneError(
            f"{quoted(volume)} was not loaded from DICOM, and DICOM export refers to its images; export the volume to "
            "DICOM (module Data, right-click it), load it from there, and segment it"
        )
    hierarchy = _hierarchy(node.GetScene())
    item = None if hierarchy is None else _item_in_study(node, hierarchy)
    if item is None:
        raise SceneError(
            f"{quoted(node)} is under no study of a patient; drag it to the study of {quoted(volume)} (module Data)"
        )
    return item


def _item_in_study(node: vtkMRMLNode, hierarchy: Any) -> int | None:
    import slicer

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

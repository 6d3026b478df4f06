"""Nodes of a scene: how they come in, where they are in the data tree, what they say of their run, and out again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.inference.segmentation import RunRecord
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


def hide_in_tree(node: vtkMRMLNode) -> None:
    """Give a node a place in the subject hierarchy that the data tree does not show."""
    import slicer

    hierarchy = _hierarchy(node.GetScene())
    if hierarchy is None:
        return
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    excluded = slicer.vtkMRMLSubjectHierarchyConstants.GetSubjectHierarchyExcludeFromTreeAttributeName()
    if item != hierarchy.GetInvalidItemID():
        hierarchy.SetItemAttribute(item, excluded, "1")


def source_instances(node: vtkMRMLSegmentationNode) -> list[str]:
    """Return the SOP Instance UIDs of the images that the volume of a segmentation was loaded from.

    Raises:
        SceneError: the volume is not in the scene, or was not loaded from DICOM.
    """
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    if volume is None:
        raise SceneError(
            f"the volume that {quoted(node)} was made on is not in the scene, and DICOM export refers to its images; "
            "load the volume and segment again"
        )
    uids = (volume.GetAttribute("DICOM.instanceUIDs") or "").split()
    if not uids:
        raise SceneError(
            f"{quoted(volume)} was not loaded from DICOM, and DICOM export refers to its images; export the volume to "
            "DICOM (module Data, right-click it), load it from there, and segment it"
        )
    return uids


def remove_node(node: vtkMRMLNode) -> None:
    """Take a node with its display and its place in the data tree out of its scene, if it is in one."""
    scene = node.GetScene()
    if scene is None:
        return
    display = node.GetDisplayNode() if node.IsA("vtkMRMLDisplayableNode") else None
    if display is not None:
        scene.RemoveNode(display)
    scene.RemoveNode(node)
    # last: the end of its display is an event of the node, for which Slicer looks up its place in the tree
    hierarchy = _hierarchy(scene)
    if hierarchy is not None:
        item = hierarchy.GetItemByDataNode(node)
        if item != hierarchy.GetInvalidItemID():
            hierarchy.RemoveItem(item, False)


def _hierarchy(scene: vtkMRMLScene) -> Any:
    """Return the subject hierarchy, None if the scene has none; does not make one."""
    if scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode") is None:
        return None
    return scene.GetSubjectHierarchyNode()


ATTRIBUTE_PREFIX = "KDSegmentator."
REGION_GIVEN_ATTRIBUTE = f"{ATTRIBUTE_PREFIX}region_given"
"""``true`` if the earlier stage of a chain was left out, because the scan showed nothing but the region already."""

LABELS_ATTRIBUTE = f"{ATTRIBUTE_PREFIX}labels_sha256"
"""Hash of the label values of the run."""


def node_attributes(record: RunRecord) -> dict[str, str]:
    """Return a run's record as attributes of the segmentation node, saved with the scene.

    The names are those of :class:`RunRecord` after ``KDSegmentator.``, stages of ``seconds`` after a further dot, for
    example ``KDSegmentator.pack_id`` and ``KDSegmentator.seconds.total``; those of an earlier stage after ``region.``.
    The sentences of the warnings are one text, a line each; without warnings there is none.
    """
    attributes = {
        "pack_id": record.pack_id,
        "pack_version": record.pack_version,
        "pack_sha256": record.pack_sha256,
        "task": record.task,
        "size": record.size,
        "engine": record.engine,
        "engine_version": record.engine_version,
        "processor": record.processor,
        "device": record.device,
        "precision": record.precision,
        "threads": str(record.threads),
        "checked": "true" if record.checked else "false",
        "mirroring": "true" if record.mirroring else "false",
        "windows": str(record.windows),
        "calls": str(record.calls),
        "library_version": record.library_version,
    }
    attributes |= {f"seconds.{stage}": f"{seconds:.3f}" for stage, seconds in record.seconds.items()}
    if record.region is not None:
        earlier = dataclasses.asdict(record.region)
        attributes |= {
            f"region.{name}": str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in earlier.items()
        }
    if record.warnings:
        attributes["warnings"] = "\n".join(warning.sentence for warning in record.warnings)
    return {ATTRIBUTE_PREFIX + name: value for name, value in attributes.items()}


def set_provenance(node: vtkMRMLNode, record: RunRecord) -> None:
    """Give a node the attributes of a run in the place of those of an earlier one; others stay."""
    kept = {name: value for name, value in attributes_of(node).items() if not name.startswith(ATTRIBUTE_PREFIX)}
    set_attributes(node, kept | node_attributes(record))


def attributes_of(node: vtkMRMLNode) -> dict[str, str]:
    """Return all attributes of a node."""
    return {name: node.GetAttribute(name) for name in node.GetAttributeNames()}


def set_attributes(node: vtkMRMLNode, attributes: dict[str, str]) -> None:
    """Give a node these attributes and no others."""
    for name in node.GetAttributeNames():
        if name not in attributes:
            node.RemoveAttribute(name)
    for name, value in attributes.items():
        node.SetAttribute(name, value)

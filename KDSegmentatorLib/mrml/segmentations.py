"""A Segmentation as a segmentation node: same grid, names, colours, coded terminology, provenance and surfaces."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from KDSegmentatorLib.analysis.seg_nrrd import segment_tags, terminology_entry
from KDSegmentatorLib.errors import GeometryError, SceneError
from KDSegmentatorLib.geometry import GRID_TOLERANCE, Volume
from KDSegmentatorLib.mrml.grids import fill_image, local_to_lps, quoted, world_to_lps
from KDSegmentatorLib.mrml.nodes import (
    LABELS_ATTRIBUTE,
    add_node,
    attributes_of,
    new_node,
    place_beside,
    remove_node,
    scene_batch,
    set_attributes,
    set_provenance,
)

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLScalarVolumeNode,
        vtkMRMLScene,
        vtkMRMLSegmentationNode,
        vtkOrientedImageData,
        vtkSegment,
        vtkSegmentation,
    )

    from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation
    from KDSegmentatorLib.packs.manifest import Label


def segmentation_node(
    segmentation: Segmentation,
    reference_node: vtkMRMLScalarVolumeNode,
    scene: vtkMRMLScene | None = None,
    *,
    name: str | None = None,
) -> vtkMRMLSegmentationNode:
    """Add a segmentation of a volume to the scene.

    The segments have the label table's order, names, colours and codes, and the ids ``Segment_<label value>``.
    Structures that were not found are there too, as empty segments: whoever asked for them sees that they are missing,
    and can draw them. All segments share one label map on the volume's own grid, with the label values of the pack;
    DICOM export leaves the empty ones out (tried with dcmqi 0.4.0, the converter of Slicer 5.13, and 1.5.7).
    The node is under the volume's transform, so that both move together, and beside it in the subject hierarchy; the
    volume is its reference geometry, as DICOM export needs it. Nothing is added to the scene unless all of it can be.

    Args:
        segmentation: on the grid of ``reference_node``, with or without its linear transform.
        reference_node: the volume that was segmented.
        scene: where to add the node; None for the volume's scene.
        name: of the node; None for the volume's name with task and size. A number is added if the scene has it.

    Raises:
        GeometryError: the segmentation is not on the volume's grid.
        SceneError: the volume is not in the scene (any more), or Slicer did not take the result.
    """
    scene = scene_of(reference_node, scene)
    _check_grid(segmentation.volume, reference_node)
    segments = _segments(segmentation, _label_map(segmentation.volume, reference_node))
    record = segmentation.record
    name = name or result_name(reference_node, record.task, record.size)

    node = new_node("vtkMRMLSegmentationNode", scene, name=name)
    _complete(node, segments, reference_node, segmentation)
    with scene_batch(scene):
        try:
            add_node(node, scene)
            place_beside(node, reference_node)
            node.CreateDefaultDisplayNodes()
        except BaseException:
            remove_node(node)
            raise
    return node


def result_name(reference_node: vtkMRMLScalarVolumeNode, task: str, size: str) -> str:
    """Return the name of a volume's result that nobody named."""
    return f"{reference_node.GetName()} {task} {size}"


def replace_segmentation(
    node: vtkMRMLSegmentationNode, segmentation: Segmentation, reference_node: vtkMRMLScalarVolumeNode
) -> None:
    """Put a segmentation of a volume in the place of what a segmentation node holds.

    The node keeps its name, its display and its place in the data tree; segments and provenance become those of
    :func:`segmentation_node`. If it fails, the node has its old segments again.

    Args:
        node: in the scene of ``reference_node``; its segments are lost.
        segmentation: on the grid of ``reference_node``, with or without its linear transform.
        reference_node: the volume that was segmented.

    Raises:
        GeometryError: the segmentation is not on the volume's grid.
        SceneError: the volume or the node is not in the scene (any more), or Slicer did not take the result.
    """
    import slicer

    scene = scene_of(reference_node)
    if node.GetScene() is not scene:
        raise SceneError(f"the segmentation {quoted(node)} is not in the scene any more; choose another one")
    _check_grid(segmentation.volume, reference_node)
    segments = _segments(segmentation, _label_map(segmentation.volume, reference_node))
    old = node.GetSegmentation()
    transform = node.GetTransformNodeID()
    attributes = attributes_of(node)
    try:
        _complete(node, segments, reference_node, segmentation)
        node.CreateDefaultDisplayNodes()
        surfaces = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        if old.ContainsRepresentation(surfaces):
            node.CreateClosedSurfaceRepresentation()
    except BaseException:
        node.SetAndObserveTransformNodeID(transform)
        _take_segments(node, old)
        set_attributes(node, attributes)
        raise


def scene_of(reference_node: vtkMRMLScalarVolumeNode, scene: vtkMRMLScene | None = None) -> vtkMRMLScene:
    """Return the scene that the segmentation of a volume belongs into: the volume's.

    Raises:
        SceneError: the volume is in none, or not in ``scene``.
    """
    own = reference_node.GetScene()
    if own is None:
        raise SceneError(
            f"the volume {quoted(reference_node)} is not in the scene any more, so that its segmentation has no place; "
            "load the volume and segment again"
        )
    if scene is not None and scene is not own:
        raise SceneError(f"the volume {quoted(reference_node)} belongs to another scene; use the volume's own scene")
    return own


def _check_grid(volume: Volume, reference_node: vtkMRMLScalarVolumeNode) -> None:
    image = reference_node.GetImageData()
    size = None if image is None else image.GetDimensions()
    if size == volume.size:
        first = np.eye(4)
        first[:3, 3] = image.GetExtent()[::2]
        corners = np.array(
            [[i, j, k, 1] for i in (0, size[0] - 1) for j in (0, size[1] - 1) for k in (0, size[2] - 1)], dtype=float
        ).T
        expected = volume.affine @ corners
        for to_lps in (world_to_lps, local_to_lps):
            distance = np.abs(to_lps(reference_node) @ first @ corners - expected).max()
            if distance <= GRID_TOLERANCE * min(volume.spacing):
                return
    raise GeometryError(
        f"the segmentation does not lie on the voxels of {quoted(reference_node)} (size {volume.size}, "
        f"the volume has {size}): the volume was changed or moved in the meantime, or it is another one; segment again"
    )


def _label_map(volume: Volume, reference_node: vtkMRMLScalarVolumeNode) -> vtkOrientedImageData:
    """Return the labels on the volume node's own grid, without its transforms."""
    import slicer
    import vtk

    labels = slicer.vtkOrientedImageData()
    fill_image(labels, volume.voxels)
    labels.SetExtent(reference_node.GetImageData().GetExtent())
    to_ras = vtk.vtkMatrix4x4()
    reference_node.GetIJKToRASMatrix(to_ras)
    labels.SetImageToWorldMatrix(to_ras)
    return labels


def _segments(segmentation: Segmentation, labels: vtkOrientedImageData) -> vtkSegmentation:
    import slicer

    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segments = slicer.vtkSegmentation()
    segments.SetSourceRepresentationName(representation)
    for label in segmentation.labels:
        segment = _segment(label, segmentation.record)
        segment.AddRepresentation(representation, labels)
        if not segments.AddSegment(segment, f"Segment_{label.value}"):
            raise SceneError(f"Slicer did not take the segment “{label.name}” (label value {label.value})")
    # as SetReferenceImageGeometryParameterFromVolumeNode does, which takes the node's transform for none until it is in
    # the scene
    converter = slicer.vtkSegmentationConverter
    segments.SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(labels)
    )
    return segments


def _segment(label: Label, record: RunRecord) -> vtkSegment:
    import slicer

    segment = slicer.vtkSegment()
    segment.SetName(label.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*(channel / 255 for channel in label.color))
    segment.SetColorAutoGenerated(False)
    segment.SetLabelValue(label.value)
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology_entry(label.terminology))
    for tag, value in segment_tags(record).items():
        segment.SetTag(tag, value)
    return segment


def _complete(
    node: vtkMRMLSegmentationNode,
    segments: vtkSegmentation,
    reference_node: vtkMRMLScalarVolumeNode,
    segmentation: Segmentation,
) -> None:
    node.SetAndObserveTransformNodeID(reference_node.GetTransformNodeID())
    _take_segments(node, segments)
    node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), reference_node.GetID())
    set_provenance(node, segmentation.record)
    node.SetAttribute(LABELS_ATTRIBUTE, labels_sha256(segmentation.volume))


def labels_sha256(labels: Volume) -> str:
    """Return the hash of label values in the order of the volume, to tell whether somebody has edited them since."""
    return hashlib.sha256(np.ascontiguousarray(labels.voxels, dtype="<u2").data).hexdigest()


def _take_segments(node: vtkMRMLSegmentationNode, segments: vtkSegmentation) -> None:
    """Give the node these segments, and tell the views and the data tree, which look at single segments only."""
    import slicer

    node.SetAndObserveSegmentation(segments)
    node.InvokeCustomModifiedEvent(slicer.vtkSegmentation.SegmentModified)

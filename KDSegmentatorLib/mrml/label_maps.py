"""Segmentation nodes to label volumes, whoever made the segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, SceneError
from KDSegmentatorLib.geometry import Volume, check_size, matrix, vector
from KDSegmentatorLib.mrml.grids import check_not_sheared, image_voxels, node_to_world, numpy_matrix, quoted, vtk_matrix

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkOrientedImageData

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def reference_volume(node: vtkMRMLSegmentationNode) -> vtkMRMLScalarVolumeNode | None:
    """Return the volume on whose grid a segmentation was made, None if it is not there."""
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())


def segment_values(node: vtkMRMLSegmentationNode) -> dict[str, int]:
    """Return the label value of every segment by its id: its own where all differ, else 1, 2, ... in their order."""
    segments = node.GetSegmentation()
    own = {each: int(segments.GetSegment(each).GetLabelValue()) for each in segments.GetSegmentIDs()}
    if len(set(own.values())) == len(own) and all(value > 0 for value in own.values()):
        return own
    return {each: number for number, each in enumerate(own, start=1)}


def label_volume(
    node: vtkMRMLSegmentationNode,
    *,
    values: Mapping[str, int] | None = None,
    reference_node: vtkMRMLScalarVolumeNode | None = None,
) -> Volume:
    """Return the segments as one label map; where segments overlap, the last one counts.

    Args:
        node: the segmentation, under linear transforms or none.
        values: label value by segment id, of the segments that are wanted; None for :func:`segment_values`.
        reference_node: on whose grid; None for the volume that the segmentation was made on, or, if that is not
            there, for the smallest grid that holds all segments.

    Returns:
        uint8, or uint16 from the value 256 on; 0 is background.

    Raises:
        GeometryError: a transform is not linear, or does not fit the grid, or no segment has a voxel to tell the grid.
        SceneError: Slicer could not make the label map.
    """
    import slicer
    import vtk

    values = segment_values(node) if values is None else values
    reference_node = reference_volume(node) if reference_node is None else reference_node
    shared = None if reference_node is None or not values else _shared(node, values, reference_node)
    if shared is not None:
        return shared
    ids, numbers = vtk.vtkStringArray(), vtk.vtkIntArray()
    for segment, value in values.items():
        ids.InsertNextValue(segment)
        numbers.InsertNextValue(value)
    merged = slicer.vtkOrientedImageData()
    if reference_node is None:
        extent, grid = slicer.vtkSegmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS, None
    else:
        extent, grid = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, _grid(node, reference_node)
    if not values:
        raise SceneError(f"{quoted(node)} has no segments; choose another segmentation")
    if not node.GenerateMergedLabelmapForAllSegments(merged, extent, grid, ids, numbers):
        raise SceneError(f"Slicer could not make a label map of {quoted(node)}")
    if merged.GetNumberOfPoints() == 0:
        raise GeometryError(f"{quoted(node)} is empty, and the volume that it was made on is not in the scene")
    check_size(merged.GetDimensions())
    return _placed(image_voxels(merged).astype(_dtype(values)), merged, node)


def _shared(
    node: vtkMRMLSegmentationNode, values: Mapping[str, int], reference_node: vtkMRMLScalarVolumeNode
) -> Volume | None:
    """Return the label map that all segments share, if they do and it has the volume's grid; else None.

    That is so for our own results. Slicer would go through the voxels once for every segment.
    """
    segments = node.GetSegmentation()
    image = _only_layer(node)
    if image is None:
        return None
    grid = _grid(node, reference_node)
    if image.GetExtent() != grid.GetExtent() or not np.allclose(_to_world(image), _to_world(grid), rtol=0, atol=1e-9):
        return None
    voxels = image_voxels(image)
    own = {each: int(segments.GetSegment(each).GetLabelValue()) for each in segments.GetSegmentIDs()}
    distinct = len(set(own.values())) == len(own) and min(own.values()) > 0
    if not distinct or not values.keys() <= own.keys() or voxels.dtype.kind not in "iu" or voxels.min() < 0:
        return None
    numbers = np.zeros(max(int(voxels.max()), *own.values()) + 1, _dtype(values))
    for each, value in values.items():
        numbers[own[each]] = value
    return _placed(numbers[voxels], image, node)


def _only_layer(node: vtkMRMLSegmentationNode) -> vtkOrientedImageData | None:
    """Return the label map of all segments, None if there are several or it is not what was drawn in."""
    import slicer

    segments = node.GetSegmentation()
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if segments.GetSourceRepresentationName() != representation or segments.GetNumberOfLayers(representation) != 1:
        return None
    return segments.GetLayerDataObject(0, representation)


def _to_world(image: vtkOrientedImageData) -> npt.NDArray[np.float64]:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return numpy_matrix(matrix)


def _dtype(values: Mapping[str, int]) -> npt.DTypeLike:
    return np.uint8 if max(values.values()) < 256 else np.uint16


def _grid(node: vtkMRMLSegmentationNode, reference_node: vtkMRMLScalarVolumeNode) -> vtkOrientedImageData:
    """Return the volume's grid in the coordinates of the segmentation, without voxels."""
    import slicer
    import vtk

    own = vtk.vtkMatrix4x4()
    reference_node.GetIJKToRASMatrix(own)
    to_ras = np.linalg.inv(node_to_world(node)) @ node_to_world(reference_node) @ numpy_matrix(own)
    check_not_sheared(reference_node, _RAS_TO_LPS @ to_ras)
    grid = slicer.vtkOrientedImageData()
    grid.SetExtent(reference_node.GetImageData().GetExtent())
    grid.SetImageToWorldMatrix(vtk_matrix(to_ras))
    return grid


def _placed(voxels: npt.NDArray[np.integer[Any]], image: vtkOrientedImageData, node: vtkMRMLSegmentationNode) -> Volume:
    """Return voxels that lie where those of an image of the segmentation do."""
    to_lps = _RAS_TO_LPS @ node_to_world(node) @ _to_world(image)
    check_not_sheared(node, to_lps)
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    first = [*image.GetExtent()[::2], 1.0]
    return Volume(
        voxels,
        vector(spacing),
        vector((to_lps @ np.array(first))[:3]),
        matrix(to_lps[:3, :3] / spacing),
    )

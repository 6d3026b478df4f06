"""Segmentation nodes to label volumes, whoever made the segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

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
    return _volume(merged, node, np.uint8 if max(values.values()) < 256 else np.uint16)


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


def _volume(image: vtkOrientedImageData, node: vtkMRMLSegmentationNode, dtype: npt.DTypeLike) -> Volume:
    import vtk

    check_size(image.GetDimensions())
    own = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(own)
    to_lps = _RAS_TO_LPS @ node_to_world(node) @ numpy_matrix(own)
    check_not_sheared(node, to_lps)
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    first = [*image.GetExtent()[::2], 1.0]
    return Volume(
        image_voxels(image).astype(dtype),
        vector(spacing),
        vector((to_lps @ np.array(first))[:3]),
        matrix(to_lps[:3, :3] / spacing),
    )

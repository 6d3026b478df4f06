"""Closed surfaces of a segmentation, one structure at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import SceneError

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode


def add_surface(node: vtkMRMLSegmentationNode, segment_id: str) -> None:
    """Give one segment its closed surface, if it has none.

    ``CreateClosedSurfaceRepresentation`` makes those of all segments in one call, which takes tens of seconds for a
    hundred structures; call that after the last segment, it takes over what is there.

    Args:
        node: with binary label maps, smoothed as the node says.
        segment_id: one that has been removed meanwhile is left out.

    Raises:
        SceneError: Slicer could not make it.
    """
    import slicer

    names = slicer.vtkSegmentationConverter
    surface_name = names.GetSegmentationClosedSurfaceRepresentationName()
    label_map_name = names.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(segment_id)
    label_map = None if segment is None else segment.GetRepresentation(label_map_name)
    if label_map is None or segment.GetRepresentation(surface_name) is not None:
        return
    copy = slicer.vtkSegment()
    copy.SetLabelValue(segment.GetLabelValue())
    copy.AddRepresentation(label_map_name, label_map)
    alone = slicer.vtkSegmentation()
    alone.SetSourceRepresentationName(label_map_name)
    alone.DeserializeConversionParameters(segmentation.SerializeAllConversionParameters())
    alone.AddSegment(copy, segment_id)
    if not alone.CreateRepresentation(surface_name):
        raise SceneError(f"Slicer could not make the surface of “{segment.GetName()}”; use “Show 3D” of the result")
    segment.AddRepresentation(surface_name, copy.GetRepresentation(surface_name))

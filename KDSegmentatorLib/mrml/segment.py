"""Segment a volume node: the main path on MRML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback
from KDSegmentatorLib.mrml.grids import quoted
from KDSegmentatorLib.mrml.provenance import REGION_GIVEN_ATTRIBUTE
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorLib.mrml.volumes import check_scan, volume_from_node
from KDSegmentatorLib.segmenter import Segmenter

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


def segment_volume_node(
    node: vtkMRMLScalarVolumeNode,
    segmenter: Segmenter,
    *,
    name: str | None = None,
    labels: Sequence[str | int] | None = None,
    mirroring: bool = False,
    check_input: bool = True,
    progress: ProgressCallback | None = None,
    cancel: CancelCheck | None = None,
) -> vtkMRMLSegmentationNode:
    """Segment a volume of a scene; the scene changes only when the result is complete.

    Args:
        node: the scan, under linear transforms or none.
        segmenter: of the task; it runs both stages of chained packs, or, with ``region="given"``, the later one.
        name: of the segmentation node; see :func:`KDSegmentatorLib.mrml.segmentations.segmentation_node`.
        labels: see :func:`KDSegmentatorLib.inference.pipeline.segment`, also for the following.
        mirroring: average over mirrored windows.
        check_input: refuse volumes that do not fit the pack: label maps, another modality, another field of view, next
            to nothing of the region that an earlier stage looks for.
        progress: called at every step.
        cancel: asked at every step.

    Raises:
        GeometryError: the node is not a 3-D scan on a rectangular grid, or was changed or moved during the run.
        SceneError: the node is in no scene, or was removed from it during the run.
        UnsuitableVolumeError: a label map, or not the pack's modality or field of view, or nothing of the region.
        KDSegmentatorError: see :meth:`KDSegmentatorLib.segmenter.Segmenter.__call__`.
    """
    check_scan(node)
    if node.GetScene() is None:
        raise SceneError(f"the volume {quoted(node)} is not in a scene; add it to one first")
    found = segmenter(
        volume_from_node(node),
        labels=labels,
        mirroring=mirroring,
        check_input=check_input,
        progress=progress,
        cancel=cancel,
    )
    result = segmentation_node(found, node, name=name)
    if segmenter.region_given:
        result.SetAttribute(REGION_GIVEN_ATTRIBUTE, "true")
    return result

"""Volume nodes to Volumes and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume, check_size, matrix, vector
from KDSegmentatorLib.mrml.grids import check_not_sheared, fill_image, quoted, ras_matrix, voxels_of, world_to_lps
from KDSegmentatorLib.mrml.nodes import add_node, new_node, scene_batch

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScene

_SPACING_TOLERANCE = 1e-9
_COMPONENT_CLASSES = ("vtkMRMLTensorVolumeNode", "vtkMRMLDiffusionWeightedVolumeNode", "vtkMRMLMultiVolumeNode")


def check_scan(node: vtkMRMLNode) -> None:
    """Check that a node is a scan that can be segmented, as far as that can be told without reading its voxels.

    Raises:
        GeometryError: see :func:`volume_from_node`, and a single slice.
        UnsuitableVolumeError: a label map.
    """
    _check_image(node)
    _placement(node)
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise UnsuitableVolumeError(f"{quoted(node)} is a label map, the result of a segmentation; choose the scan")
    size = node.GetImageData().GetDimensions()
    if min(size) < 2:
        raise GeometryError(f"{quoted(node)} is a single slice (size {size}); choose a 3-D scan")


def volume_from_node(node: vtkMRMLNode) -> Volume:
    """Return the image of a scalar or label map volume node, where it is shown.

    Linear transforms that the node is under become part of the geometry, as if they had been hardened; the node is not
    changed. The voxels are copied, so that the Volume stays what it is when the node is edited or removed.

    Args:
        node: a ``vtkMRMLScalarVolumeNode`` or ``vtkMRMLLabelMapVolumeNode`` with image data.

    Returns:
        Voxels (z, y, x) of the node's own type; spacing in mm; origin and direction in LPS.

    Raises:
        GeometryError: the node is no volume, has no image, several values a voxel or several time points, too many
            voxels, a non-linear transform, or axes that are not perpendicular.
    """
    _check_image(node)
    to_lps = _placement(node)
    lengths = np.linalg.norm(to_lps[:3, :3], axis=0)
    stored = np.array(node.GetSpacing())
    # A rotation changes the last digits of the column lengths; that must not change the resampled size.
    spacing = np.where(np.abs(lengths - stored) <= _SPACING_TOLERANCE * stored, stored, lengths)
    first = node.GetImageData().GetExtent()[::2]
    return Volume(
        voxels_of(node),
        vector(spacing),
        vector((to_lps @ np.array([*first, 1.0]))[:3]),
        matrix(to_lps[:3, :3] / spacing),
    )


def node_from_volume(
    volume: Volume,
    scene: vtkMRMLScene,
    *,
    name: str,
    label_map: bool = False,
    grid_of: vtkMRMLScalarVolumeNode | None = None,
) -> vtkMRMLScalarVolumeNode:
    """Add a volume to the scene.

    Args:
        volume: any numeric type; the few that Slicer does not display (bool, float16, 64-bit integers) become another.
        scene: in 3D Slicer ``slicer.mrmlScene``.
        name: of the node; a number is added if the scene has it already.
        label_map: make a label map node instead of a scalar volume node.
        grid_of: a volume with this one's voxels, whose grid and transform it takes.

    Raises:
        SceneError: Slicer did not take the node.
    """
    node = new_node("vtkMRMLLabelMapVolumeNode" if label_map else "vtkMRMLScalarVolumeNode", scene, name=name)
    put_image(node, volume, grid_of=grid_of)
    with scene_batch(scene):
        add_node(node, scene)
        node.CreateDefaultDisplayNodes()
    return node


def put_image(node: vtkMRMLScalarVolumeNode, volume: Volume, *, grid_of: vtkMRMLScalarVolumeNode | None = None) -> None:
    """Put a volume in the place of what a volume node holds; see :func:`node_from_volume`."""
    import vtk

    image = vtk.vtkImageData()
    fill_image(image, _with_vtk_type(volume.voxels))
    to_ras = ras_matrix(volume)
    if grid_of is not None:
        grid_of.GetIJKToRASMatrix(to_ras)
        image.SetExtent(grid_of.GetImageData().GetExtent())
        node.SetAndObserveTransformNodeID(grid_of.GetTransformNodeID())
    node.SetIJKToRASMatrix(to_ras)
    node.SetAndObserveImageData(image)


def _placement(node: Any) -> npt.NDArray[np.float64]:
    """Return the 4 x 4 matrix from voxels to LPS in mm, checked."""
    check_size(node.GetImageData().GetDimensions())
    to_lps = world_to_lps(node)
    check_not_sheared(node, to_lps)
    return to_lps


def _check_image(node: Any) -> None:
    if node is None:
        raise GeometryError("no volume was chosen; choose a scan")
    if node.IsA("vtkMRMLSequenceNode"):
        raise GeometryError(
            f"{quoted(node)} is a sequence of {node.GetNumberOfDataNodes()} images (4-D); "
            "choose the volume of one time point"
        )
    if any(node.IsA(name) for name in _COMPONENT_CLASSES):
        raise GeometryError(
            f"{quoted(node)} has several values in every voxel (a colour, diffusion or 4-D image); "
            "choose a volume with one grey value a voxel"
        )
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        raise GeometryError(f"{quoted(node)} is not a volume; choose a scan")
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0:
        raise GeometryError(f"{quoted(node)} is empty: it has no image data; load it again or choose another volume")
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise GeometryError(
            f"{quoted(node)} has {components} values in every voxel (a colour or 4-D image); "
            "choose a volume with one grey value a voxel"
        )


def _with_vtk_type(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the voxels in a type that VTK stores and displays: the same wherever it can be."""
    if voxels.dtype == np.bool_:
        return voxels.astype(np.uint8)
    if voxels.dtype == np.float16:
        return voxels.astype(np.float32)
    if voxels.dtype.kind in "iu" and voxels.dtype.itemsize == 8:
        limits = np.iinfo(np.int32)
        fits = voxels.size == 0 or (voxels.min() >= limits.min and voxels.max() <= limits.max)
        return voxels.astype(np.int32 if fits else np.float64)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)

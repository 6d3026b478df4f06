"""Voxels and grids as VTK has them: image data, scalars, and matrices from (i, j, k) to RAS in mm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import ORTHONORMALITY_TOLERANCE, Volume

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLTransformableNode, vtkMRMLVolumeNode
    from vtk import vtkImageData, vtkMatrix4x4

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LPS_TO_RAS = _RAS_TO_LPS

SCALARS_NAME = "ImageScalars"
"""Of the voxels' array, as ``vtkImageData.AllocateScalars`` names it."""


def numpy_matrix(matrix: vtkMatrix4x4) -> npt.NDArray[np.float64]:
    """Return a VTK matrix as a 4 x 4 array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtk_matrix(values: npt.NDArray[np.float64]) -> vtkMatrix4x4:
    """Return a 4 x 4 array as a VTK matrix."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy([float(value) for value in values.ravel()])
    return matrix


def local_to_lps(node: vtkMRMLVolumeNode) -> npt.NDArray[np.float64]:
    """Return the matrix from a voxel's (i, j, k, 1) to LPS in mm, without the node's transforms."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return _RAS_TO_LPS @ numpy_matrix(matrix)


def world_to_lps(node: vtkMRMLVolumeNode) -> npt.NDArray[np.float64]:
    """Return the matrix from a voxel's (i, j, k, 1) to LPS in mm, with the transforms that the node is under.

    Raises:
        GeometryError: a transform is not linear.
    """
    return _RAS_TO_LPS @ node_to_world(node) @ _LPS_TO_RAS @ local_to_lps(node)


def node_to_world(node: vtkMRMLTransformableNode) -> npt.NDArray[np.float64]:
    """Return the 4 x 4 matrix of the transforms that a node is under, RAS to RAS in mm.

    Raises:
        GeometryError: a transform is not linear.
    """
    import vtk

    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise GeometryError(
            f"{quoted(node)} is under the non-linear transform {quoted(transform)}, which bends the voxel grid. "
            "Harden the transform, or take the volume out of it, and segment again"
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return numpy_matrix(matrix)


def check_not_sheared(node: vtkMRMLVolumeNode, to_lps: npt.NDArray[np.float64]) -> None:
    """Check that the transforms leave the axes of a grid perpendicular.

    Args:
        node: the volume, for the message.
        to_lps: 4 x 4, see :func:`world_to_lps`.

    Raises:
        GeometryError: they do not, or an axis has no length.
    """
    lengths = np.linalg.norm(to_lps[:3, :3], axis=0)
    if not np.isfinite(to_lps).all() or lengths.min() <= 0:
        raise GeometryError(
            f"the voxels of {quoted(node)} have the size {_text(lengths)} mm, which is not possible; "
            "correct the spacing of the volume (module Volumes) or its transform"
        )
    cosines = to_lps[:3, :3] / lengths
    deviation = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if deviation > ORTHONORMALITY_TOLERANCE:
        transform = node.GetParentTransformNode()
        where = "" if transform is None else f" under the transform {quoted(transform)}"
        raise GeometryError(
            f"the axes of {quoted(node)}{where} are not perpendicular (off by {deviation:.3g}): the volume is sheared, "
            "as by a gantry tilt or an affine registration. Resample it onto a rectangular grid "
            "(module Resample Scalar/Vector/DWI Volume) and segment the result"
        )


def voxels_of(node: vtkMRMLScalarVolumeNode) -> npt.NDArray[Any]:
    """Return a copy of a scalar volume's voxels, (z, y, x)."""
    return image_voxels(node.GetImageData())


def image_voxels(image: vtkImageData) -> npt.NDArray[Any]:
    """Return a copy of image data, (z, y, x).

    A copy, because VTK may free or change the memory while the array is in use.
    """
    from vtk.util.numpy_support import vtk_to_numpy

    i, j, k = image.GetDimensions()
    return np.array(vtk_to_numpy(image.GetPointData().GetScalars())).reshape(k, j, i)


def fill_image(image: vtkImageData, voxels: npt.NDArray[Any]) -> None:
    """Give image data the size and a copy of the voxels (z, y, x), which VTK must have a type for.

    The array has the name that VTK gives to those it makes itself: Slicer's DICOM export looks for it, and takes a
    segment without it for empty.
    """
    from vtk.util.numpy_support import numpy_to_vtk

    array = numpy_to_vtk(np.ascontiguousarray(voxels).ravel(), deep=True)
    array.SetName(SCALARS_NAME)
    image.SetDimensions(*voxels.shape[::-1])
    image.GetPointData().SetScalars(array)


def ras_matrix(volume: Volume) -> vtkMatrix4x4:
    """Return the matrix from a volume's (i, j, k, 1) to RAS in mm."""
    return vtk_matrix(_LPS_TO_RAS @ volume.affine)


def quoted(node: Any) -> str:
    """Return a node's name for a message."""
    return f"“{node.GetName() or node.GetID() or node.GetClassName()}”"


def _text(values: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)

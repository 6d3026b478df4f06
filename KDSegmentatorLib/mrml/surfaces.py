"""Closed surfaces of segments, worked out of the way of the application: ``python -m KDSegmentatorLib.mrml.surfaces``.

Slicer makes all surfaces of a segmentation at once, in its own thread, each from the whole grid: seconds for tens of
structures, in which nothing else happens. Here label maps are taken out of a node, another process makes what Slicer
would make of them, structure by structure within its bounding box, and the node gets all surfaces together.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.jobs.worker import stdin_closed
from KDSegmentatorLib.mrml.grids import image_voxels, numpy_matrix, vtk_matrix
from KDSegmentatorLib.mrml.nodes import scene_batch

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode
    from vtk import vtkPolyData

COMMAND = ("-m", "KDSegmentatorLib.mrml.surfaces")
"""What Python is started with to make surfaces, in a folder where :func:`write_layers` has been."""

_SMOOTHING = "Smoothing factor"
_DEFAULT_SMOOTHING = 0.5
_WATCH_SECONDS = 0.5
_LAYERS, _MESHES = "layers.json", "meshes.npz"


def is_shown_in_3d(node: vtkMRMLSegmentationNode) -> bool:
    """Return whether 3-D views show the surfaces of a segmentation."""
    display = node.GetDisplayNode()
    has_surfaces = node.GetSegmentation().ContainsRepresentation(_surface_name())
    return bool(has_surfaces and display is not None and display.GetVisibility() and display.GetVisibility3D())


def show_in_3d(node: vtkMRMLSegmentationNode, shown: bool) -> bool:
    """Show a segmentation in 3-D views, or do not; return whether it wants surfaces that are still to be made."""
    display = node.GetDisplayNode()
    if display is not None:
        display.SetVisibility3D(shown)
        if shown:
            display.SetVisibility(True)
    return shown and not node.GetSegmentation().ContainsRepresentation(_surface_name())


def _surface_name() -> str:
    import slicer

    return str(slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName())


class LabelLayer(NamedTuple):
    """A label map that one or more segments share.

    Attributes:
        voxels: label values, (z, y, x).
        to_ras: 4 x 4, from (i, j, k, 1) to RAS in mm, without the node's transforms.
        values: label value by segment id.
        smoothing: Slicer's factor, 0 to 1.
        modified: VTK's time of the label map, to see whether it was edited meanwhile.
    """

    voxels: npt.NDArray[Any]
    to_ras: npt.NDArray[np.float64]
    values: dict[str, int]
    smoothing: float
    modified: int


class Mesh(NamedTuple):
    """A closed surface: points (n, 3) in RAS in mm, their normals (n, 3), and triangles (m, 3) of point numbers."""

    points: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    triangles: npt.NDArray[np.int64]


def layers_without_surfaces(node: vtkMRMLSegmentationNode) -> list[LabelLayer]:
    """Return copies of the label maps of the segments that have no surface yet."""
    import slicer

    names = slicer.vtkSegmentationConverter
    label_map_name = names.GetSegmentationBinaryLabelmapRepresentationName()
    surface_name = _surface_name()
    segmentation = node.GetSegmentation()
    factor = segmentation.GetConversionParameter(_SMOOTHING)
    layers: dict[Any, LabelLayer] = {}
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        image = segment.GetRepresentation(label_map_name)
        if image is None or image.GetNumberOfPoints() == 0 or segment.GetRepresentation(surface_name) is not None:
            continue
        if image not in layers:
            first = np.eye(4)
            first[:3, 3] = image.GetExtent()[::2]
            layers[image] = LabelLayer(
                voxels=image_voxels(image),
                to_ras=numpy_matrix(_image_to_world(image)) @ first,
                values={},
                smoothing=float(factor) if factor else _DEFAULT_SMOOTHING,
                modified=image.GetMTime(),
            )
        layers[image].values[segment_id] = segment.GetLabelValue()
    return list(layers.values())


def _image_to_world(image: Any) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return matrix


def make_meshes(layers: list[LabelLayer]) -> dict[str, Mesh]:
    """Return the surfaces by segment id, as Slicer makes them by default; segments without voxels have none."""
    from scipy import ndimage

    meshes = {}
    for layer in layers:
        largest = max(layer.values.values())
        known = np.where(layer.voxels <= largest, layer.voxels, 0)
        boxes = ndimage.find_objects(known, largest)
        for segment_id, value in layer.values.items():
            box = boxes[value - 1] if value > 0 else None
            if box is not None:
                meshes[segment_id] = _mesh(layer, value, box)
    return meshes


def _mesh(layer: LabelLayer, value: int, box: tuple[slice, slice, slice]) -> Mesh:
    """Return the surface of one structure with the filters and settings of Slicer's conversion ("Flying edges")."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    inside = np.pad(layer.voxels[box] == value, 1).astype(np.uint8)
    image = vtk.vtkImageData()
    image.SetDimensions(*inside.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(inside.ravel(), deep=True))
    edges = vtk.vtkDiscreteFlyingEdges3D()
    edges.SetInputData(image)
    edges.ComputeNormalsOff()
    edges.ComputeGradientsOff()
    edges.ComputeScalarsOff()
    edges.SetValue(0, 1)
    last = edges
    if layer.smoothing > 0:
        last = vtk.vtkWindowedSincPolyDataFilter()
        last.SetInputConnection(edges.GetOutputPort())
        last.SetNumberOfIterations(int(20 + 40 * layer.smoothing))
        last.SetPassBand(10.0 ** (-4 * layer.smoothing))
        last.BoundarySmoothingOff()
        last.FeatureEdgeSmoothingOff()
        last.NonManifoldSmoothingOn()
        last.NormalizeCoordinatesOn()
    corner = np.eye(4)
    corner[:3, 3] = [side.start - 1 for side in box[::-1]]
    to_ras = layer.to_ras @ corner
    transform = vtk.vtkTransform()
    transform.SetMatrix(vtk_matrix(to_ras))
    placed = vtk.vtkTransformPolyDataFilter()
    placed.SetInputConnection(last.GetOutputPort())
    placed.SetTransform(transform)
    last = placed
    if np.linalg.det(to_ras[:3, :3]) < 0:  # a left-handed grid turns the surface inside out
        last = vtk.vtkReverseSense()
        last.SetInputConnection(placed.GetOutputPort())
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(last.GetOutputPort())
    normals.SplittingOff()
    normals.ConsistencyOff()
    normals.Update()
    surface = normals.GetOutput()
    return Mesh(
        points=vtk_to_numpy(surface.GetPoints().GetData()).astype(np.float32),
        normals=vtk_to_numpy(surface.GetPointData().GetNormals()).astype(np.float32),
        triangles=vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64),
    )


def add_surfaces(node: vtkMRMLSegmentationNode, meshes: Mapping[str, Mesh], layers: list[LabelLayer]) -> None:
    """Give segments their surfaces, all at once: 3-D views make all that are missing as soon as one is there.

    Args:
        node: the segmentation.
        meshes: by segment id.
        layers: that they were made of; segments that were removed or edited meanwhile get none.
    """
    import slicer

    names = slicer.vtkSegmentationConverter
    label_map_name = names.GetSegmentationBinaryLabelmapRepresentationName()
    surface_name = _surface_name()
    segmentation = node.GetSegmentation()
    modified = {segment_id: layer.modified for layer in layers for segment_id in layer.values}
    with scene_batch(node.GetScene()):
        for segment_id, time_made in modified.items():
            segment = segmentation.GetSegment(segment_id)
            image = None if segment is None else segment.GetRepresentation(label_map_name)
            if image is None or image.GetMTime() != time_made:
                continue
            mesh = meshes.get(segment_id)
            segment.AddRepresentation(surface_name, _poly_data(mesh))
        node.CreateClosedSurfaceRepresentation()  # takes over what is there


def _poly_data(mesh: Mesh | None) -> vtkPolyData:
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

    surface = vtk.vtkPolyData()
    if mesh is None:
        return surface
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(mesh.points, deep=True))
    normals = numpy_to_vtk(mesh.normals, deep=True)
    normals.SetName("Normals")
    cells = vtk.vtkCellArray()
    ends = np.arange(0, mesh.triangles.size + 1, 3, dtype=np.int64)
    cells.SetData(numpy_to_vtkIdTypeArray(ends, deep=True), numpy_to_vtkIdTypeArray(mesh.triangles.ravel(), deep=True))
    surface.SetPoints(points)
    surface.SetPolys(cells)
    surface.GetPointData().SetNormals(normals)
    return surface


class _Stored(msgspec.Struct, frozen=True):
    """A layer without its voxels, which are in a file of their own."""

    to_ras: list[list[float]]
    values: dict[str, int]
    smoothing: float


def write_layers(layers: list[LabelLayer], folder: Path) -> None:
    """Write what :data:`COMMAND` reads."""
    stored = []
    for number, layer in enumerate(layers):
        np.save(folder / f"{number}.npy", layer.voxels)
        stored.append(_Stored(layer.to_ras.tolist(), layer.values, layer.smoothing))
    (folder / _LAYERS).write_bytes(msgspec.json.encode(stored))


def read_meshes(folder: Path) -> dict[str, Mesh] | None:
    """Return what :data:`COMMAND` wrote; None if it did not get there."""
    if not (folder / _MESHES).is_file():
        return None
    with np.load(folder / _MESHES, allow_pickle=False) as arrays:
        ids = [str(each) for each in arrays["ids"]]
        return {each: Mesh(*(arrays[f"{n}.{part}"] for part in Mesh._fields)) for n, each in enumerate(ids)}


def _main(folder: Path) -> None:
    stored = msgspec.json.decode((folder / _LAYERS).read_bytes(), type=list[_Stored])
    layers = [
        LabelLayer(np.load(folder / f"{number}.npy"), np.array(each.to_ras), each.values, each.smoothing, 0)
        for number, each in enumerate(stored)
    ]
    meshes = make_meshes(layers)
    arrays: dict[str, Any] = {
        f"{n}.{part}": array for n, mesh in enumerate(meshes.values()) for part, array in mesh._asdict().items()
    }
    with atomic_output(folder / _MESHES) as unfinished, unfinished.open("wb") as file:
        np.savez(file, ids=np.array(list(meshes), dtype=str), **arrays)


def _end_with_owner() -> None:
    """End this process when nobody holds its standard input any more: the application was closed or crashed."""
    while not stdin_closed():
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_owner, daemon=True).start()
    _main(Path.cwd())

"""Volumes, segmentations and transforms in a real MRML scene."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np

from KDSegmentatorLib.geometry import Vector, Volume, matrix, vector
from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation
from KDSegmentatorLib.packs.manifest import Code, Label, Terminology

AXIS_ORDERS = ["".join(letters) for axes in permutations(("LR", "PA", "SI")) for letters in product(*axes)]
UPRIGHT, TILTED = (0.0, 0.0, 0.0), (20.0, -33.0, 11.0)
_UNIT = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def rotation(degrees: Vector) -> np.ndarray[Any, Any]:
    """Return the rotation about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        result = turn @ result
    return result


def affine(degrees: Vector = UPRIGHT, shift: Vector = (0.0, 0.0, 0.0), scale: Any = 1.0) -> np.ndarray[Any, Any]:
    """Return a 4 x 4 matrix that scales, then turns, then shifts."""
    result = np.eye(4)
    result[:3, :3] = rotation(degrees) @ np.diag(np.broadcast_to(scale, 3).astype(float))
    result[:3, 3] = shift
    return result


def placed(
    voxels: np.ndarray[Any, Any],
    codes: str = "LPS",
    degrees: Vector = UPRIGHT,
    spacing: Vector = (0.8, 1.1, 2.5),
    origin: Vector = (-31.5, 17.25, 104.0),
) -> Volume:
    """Return a volume whose i, j, k point along the codes, turned by degrees."""
    direction = rotation(degrees) @ np.array([_UNIT[letter] for letter in codes], dtype=float).T
    return Volume(voxels, spacing, origin, matrix(direction))


def to_ras(volume: Volume, kji: tuple[int, int, int]) -> Vector:
    """Return where a voxel's centre is, in RAS."""
    left, posterior, superior = (volume.affine @ [*kji[::-1], 1.0])[:3]
    return vector([-left, -posterior, superior])


def _code(value: str, meaning: str) -> Code:
    return Code(scheme="SCT", value=value, meaning=meaning)


_ANATOMY = _code("123037004", "Anatomical Structure")
LABELS = (
    Label(
        value=1,
        name="Anterior hippocampus",
        color=(255, 51, 0),
        terminology=Terminology(
            category=_ANATOMY, type=_code("3741009", "Hippocampus"), type_modifier=_code("7771000", "Left")
        ),
    ),
    Label(
        value=3,
        name="Hippocampe postérieur",
        color=(12, 200, 133),
        terminology=Terminology(
            category=_ANATOMY,
            type=_code("3741009", "Hippocampus"),
            region=_code("12738006", "Brain"),
            region_modifier=_code("24028007", "Right"),
        ),
    ),
    Label(
        value=2,
        name="Lesion",
        color=(0, 0, 255),
        terminology=Terminology(
            category=_code("49755003", "Morphologically Altered Structure"), type=_code("4147007", "Mass")
        ),
    ),
)
RECORD = RunRecord(
    pack_id="hippocampus-x1_4",
    pack_version="1.2.3",
    pack_sha256="ab" * 32,
    task="hippocampus",
    size="x1/4",
    engine="onnxruntime",
    precision="float32",
    device="cpu",
    threads=2,
    checked=True,
    mirroring=False,
    windows=8,
    calls=7,
    seconds={"preprocess": 0.1234, "windows": 2.5, "restore": 0.25, "total": 2.8734},
    library_version="0.1.0",
    engine_version="1.23.0",
    processor="A processor (x86_64)",
)


def segmentation_of(volume: Volume, labels: tuple[Label, ...] = LABELS) -> Segmentation:
    """Return a result with this label volume."""
    return Segmentation(volume=volume, labels=labels, record=RECORD)


def random_labels(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray[Any, Any]:
    """Return values 0 to 3 without any symmetry."""
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


@dataclass
class MrmlScene:
    """A scene and what tests do with it."""

    scene: Any

    def volume_node(self, volume: Volume, name: str = "T1") -> Any:
        """Add a scalar volume."""
        from KDSegmentatorLib.mrml.volumes import node_from_volume

        return node_from_volume(volume, self.scene, name=name)

    def linear_transform(self, ras: np.ndarray[Any, Any], *nodes: Any, name: str = "Registration") -> Any:
        """Add a transform (4 x 4, RAS) and put the nodes under it."""
        import vtk

        transform = self.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        values = vtk.vtkMatrix4x4()
        values.DeepCopy(ras.ravel().tolist())
        transform.SetMatrixTransformToParent(values)
        for node in nodes:
            node.SetAndObserveTransformNodeID(transform.GetID())
        return transform

    def bending_transform(self, *nodes: Any) -> Any:
        """Add a thin-plate spline and put the nodes under it."""
        import vtk

        source, target = vtk.vtkPoints(), vtk.vtkPoints()
        for corner in product((-50.0, 50.0), repeat=3):
            source.InsertNextPoint(*corner)
            target.InsertNextPoint(corner[0], corner[1], corner[2] + (8 if corner[0] > 0 < corner[1] else 0))
        bend = vtk.vtkThinPlateSplineTransform()
        bend.SetSourceLandmarks(source)
        bend.SetTargetLandmarks(target)
        bend.SetBasisToR()
        transform = self.scene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
        transform.SetAndObserveTransformToParent(bend)
        for node in nodes:
            node.SetAndObserveTransformNodeID(transform.GetID())
        return transform

    def exported(self, node: Any, reference_node: Any) -> Volume:
        """Return a segmentation node as Slicer exports it onto the reference volume's grid, with the pack's values."""
        import slicer
        import vtk

        from KDSegmentatorLib.mrml.volumes import volume_from_node

        segments = node.GetSegmentation()
        ids = vtk.vtkStringArray()
        table = [0]
        for segment_id in segments.GetSegmentIDs():
            ids.InsertNextValue(segment_id)
            table.append(segments.GetSegment(segment_id).GetLabelValue())
        label_map = self.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "exported")
        export = slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode
        assert export(node, ids, label_map, reference_node)
        result = volume_from_node(label_map)
        return result.with_voxels(np.array(table)[result.voxels])  # Slicer numbers exported segments from 1

    def ids(self) -> list[str]:
        """Return the ids of all nodes, to see whether the scene was changed."""
        return [self.scene.GetNthNode(n).GetID() for n in range(self.scene.GetNumberOfNodes())]


@contextlib.contextmanager
def empty_scene(log: Path) -> Iterator[MrmlScene]:
    """Yield a scene of its own; a VTK error or warning, which raises nothing, fails.

    slicer-core has neither ``slicer.mrmlScene`` nor ``slicer.app``: the colour tables that the application would have
    put into the scene are added here.

    Args:
        log: file for VTK's messages.
    """
    import slicer
    import vtk

    window = vtk.vtkFileOutputWindow()
    window.SetFileName(str(log))
    window.SetFlush(True)
    before = vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(window)
    scene = slicer.vtkMRMLScene()
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    try:
        yield MrmlScene(scene)
        colors.SetMRMLScene(None)
        scene.Clear(True)
    finally:
        vtk.vtkOutputWindow.SetInstance(before)
    complaints = log.read_text(errors="replace") if log.exists() else ""
    assert not complaints, complaints


def tag(segment: Any, name: str) -> str:
    """Return a tag of a segment."""
    import vtk

    value = vtk.reference("")
    assert segment.GetTag(name, value)
    return str(value)

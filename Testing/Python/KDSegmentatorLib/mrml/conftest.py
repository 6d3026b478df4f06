"""Real MRML without the application: ``pip install slicer-core`` (Linux, Windows, macOS; no display needed).

slicer-core has neither ``slicer.mrmlScene`` nor ``slicer.app``: every test gets a scene of its own. VTK errors and
warnings do not raise; they are collected here and fail the test that caused them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.geometry import Volume, matrix, vector
from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation
from KDSegmentatorLib.packs.manifest import Code, Label, Terminology

SLICER_MISSING = "install slicer-core to test on real MRML: pip install 'kdsegmentator[slicer-test]'"


def all_axis_orders() -> list[str]:
    """All 48 axis codes, right- and left-handed."""
    pairs = (("L", "R"), ("P", "A"), ("S", "I"))
    return ["".join(letters) for order in permutations(pairs) for letters in product(*order)]


def oblique(*degrees: float) -> np.ndarray:
    """Rotation about x, then y, then z."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        rotation = turn @ rotation
    return rotation


def make_volume(
    voxels: np.ndarray,
    codes: str = "LPS",
    degrees: tuple[float, float, float] = (0, 0, 0),
    spacing: tuple[float, float, float] = (0.8, 1.1, 2.5),
    origin: tuple[float, float, float] = (-31.5, 17.25, 104.0),
) -> Volume:
    """A volume whose i, j, k point along the codes, turned by degrees."""
    unit = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    direction = oblique(*degrees) @ np.array([unit[letter] for letter in codes]).T
    return Volume(voxels, vector(spacing), vector(origin), matrix(direction))


def _code(value: str, meaning: str) -> Code:
    return Code(scheme="SCT", value=value, meaning=meaning)


ANATOMY = _code("123037004", "Anatomical Structure")

LABELS = (
    Label(
        value=1,
        name="Anterior hippocampus",
        color=(255, 51, 0),
        terminology=Terminology(
            category=ANATOMY,
            type=_code("3741009", "Hippocampus structure"),
            type_modifier=_code("7771000", "Left"),
        ),
    ),
    Label(
        value=3,
        name="Hippocampe postérieur",
        color=(12, 200, 133),
        terminology=Terminology(
            category=ANATOMY,
            type=_code("3741009", "Hippocampus structure"),
            region=_code("12738006", "Brain"),
            region_modifier=_code("24028007", "Right"),
        ),
    ),
    Label(
        value=2,
        name="Lesion",
        color=(0, 0, 255),
        terminology=Terminology(
            category=_code("49755003", "Morphologically Altered Structure"), type=_code("4147007", "Mass ~ of ^ cells |")
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
    mirroring=False,
    windows=8,
    seconds={"preprocess": 0.1234, "windows": 2.5, "restore": 0.25, "total": 2.8734},
    library_version="0.1.0",
)


def make_segmentation(volume: Volume, labels: tuple[Label, ...] = LABELS) -> Segmentation:
    return Segmentation(volume=volume, labels=labels, record=RECORD)


def snapshot(scene: Any) -> list[str]:
    """Ids of all nodes, to see whether the scene was changed."""
    return [scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())]


@dataclass
class Mrml:
    """What the tests of this folder share; fixtures instead of imports, because the folder is no package."""

    scene: Any
    complaints: list[str] = field(default_factory=list)
    labels: tuple[Label, ...] = LABELS
    record: RunRecord = RECORD
    make_volume: Callable[..., Volume] = make_volume
    make_segmentation: Callable[..., Segmentation] = make_segmentation

    def node(self, volume: Volume, name: str = "T1") -> Any:
        from KDSegmentatorLib.mrml.volumes import node_from_volume

        return node_from_volume(volume, self.scene, name=name)

    def transform(self, matrix: np.ndarray, name: str = "Registration", parent: Any = None) -> Any:
        """A linear transform node, 4 x 4 in RAS."""
        import vtk

        node = self.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        values = vtk.vtkMatrix4x4()
        values.DeepCopy(matrix.ravel().tolist())
        node.SetMatrixTransformToParent(values)
        if parent is not None:
            node.SetAndObserveTransformNodeID(parent.GetID())
        return node

    def bending_transform(self) -> Any:
        import vtk

        bend = vtk.vtkThinPlateSplineTransform()
        source, target = vtk.vtkPoints(), vtk.vtkPoints()
        for corner in product((-50.0, 50.0), repeat=3):
            source.InsertNextPoint(*corner)
            target.InsertNextPoint(corner[0], corner[1], corner[2] + (8 if corner[0] > 0 < corner[1] else 0))
        bend.SetSourceLandmarks(source)
        bend.SetTargetLandmarks(target)
        bend.SetBasisToR()
        node = self.scene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
        node.SetAndObserveTransformToParent(bend)
        return node

    def exported(self, segmentation_node: Any, reference_node: Any) -> Volume:
        """The segments as Slicer's own export writes them into a label map on the volume's grid."""
        import slicer

        from KDSegmentatorLib.mrml.volumes import volume_from_node

        label_map = self.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "exported")
        ids = segmentation_node.GetSegmentation().GetSegmentIDs()
        assert slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode(
            segmentation_node, ids, label_map, reference_node
        )
        return volume_from_node(label_map)

    def snapshot(self) -> list[str]:
        return snapshot(self.scene)


@pytest.fixture
def mrml(tmp_path: Path) -> Iterator[Mrml]:
    import slicer
    import vtk

    log = tmp_path / "vtk.log"
    window = vtk.vtkFileOutputWindow()
    window.SetFileName(str(log))
    window.SetFlush(True)
    before = vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(window)
    scene = slicer.vtkMRMLScene()
    for storage in ("vtkMRMLSegmentationStorageNode", "vtkMRMLVolumeArchetypeStorageNode"):
        scene.RegisterNodeClass(getattr(slicer, storage)())
    shared = Mrml(scene)
    yield shared
    scene.Clear(True)
    vtk.vtkOutputWindow.SetInstance(before)
    del window
    complaints = log.read_text(errors="replace") if log.exists() else ""
    assert not complaints, complaints


@pytest.fixture
def lenient_mrml(mrml: Mrml) -> Mrml:
    return mrml

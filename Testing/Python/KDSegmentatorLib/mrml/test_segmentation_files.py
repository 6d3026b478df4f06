from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer

from KDSegmentatorLib.analysis.seg_nrrd import write_segmentation
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorLib.mrml.volumes import volume_from_node
from support.mrml_scene import (
    TILTED,
    MrmlScene,
    affine,
    placed,
    random_labels,
    segmentation_of,
    tag,
)

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def names(node: Any) -> list[str]:
    segments = node.GetSegmentation()
    return [segments.GetSegment(segment_id).GetName() for segment_id in segments.GetSegmentIDs()]


def segment_fields(path: Path) -> dict[str, str]:
    """Return what the header says of the segments; the entries of their tags sorted, as their order has no meaning."""
    lines = path.read_bytes().partition(b"\n\n")[0].decode().splitlines()
    fields = dict(line.split(":=", 1) for line in lines if line.startswith("Segment"))
    return {key: "|".join(sorted(text.split("|"))) if key.endswith("Tags") else text for key, text in fields.items()}


def read_back(path: Path, scene: Any) -> Any:
    """Load a .seg.nrrd file into a scene."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "loaded")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


class TestFiles:
    @pytest.mark.parametrize("codes", ["LPS", "RIA", "ASL"])
    def test_seg_nrrd_keeps_everything(self, mrml: MrmlScene, tmp_path: Path, codes: str) -> None:
        volume = placed(SCAN, codes, TILTED)
        labels = random_labels(SHAPE)
        labels[labels == 2] = 0  # one empty segment
        reference = mrml.volume_node(volume)
        node = segmentation_node(segmentation_of(volume.with_voxels(labels)), reference)
        node.AddDefaultStorageNode()
        path = tmp_path / "résultat.seg.nrrd"
        node.GetStorageNode().SetFileName(str(path))
        assert node.GetStorageNode().WriteData(node)

        other = read_back(path, mrml.scene)
        assert names(other) == names(node)
        for segment_id in node.GetSegmentation().GetSegmentIDs():
            before, after = (n.GetSegmentation().GetSegment(segment_id) for n in (node, other))
            assert after.GetLabelValue() == before.GetLabelValue()
            assert after.GetColor() == pytest.approx(before.GetColor(), abs=1e-6)
            for name in ("TerminologyEntry", "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"):
                assert tag(after, name) == tag(before, name)
        exported = mrml.exported(other, reference)
        assert exported.same_grid(volume)
        np.testing.assert_array_equal(exported.voxels, labels)

    @pytest.mark.parametrize("codes", ["LPS", "RIA", "ASL"])
    def test_the_file_of_a_result_is_the_one_that_slicer_writes(
        self, mrml: MrmlScene, tmp_path: Path, codes: str
    ) -> None:
        volume = placed(SCAN, codes, TILTED)
        labels = random_labels(SHAPE)
        labels[labels == 2] = 0  # one empty segment
        reference = mrml.volume_node(volume)
        result = segmentation_of(volume.with_voxels(labels))
        node = segmentation_node(result, reference)
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / "slicer.seg.nrrd"))
        assert node.GetStorageNode().WriteData(node)
        write_segmentation(result, tmp_path / "ours.seg.nrrd")

        ours, theirs = (segment_fields(tmp_path / f"{name}.seg.nrrd") for name in ("ours", "slicer"))
        parameters = [each.pop("Segmentation_ConversionParameters") for each in (ours, theirs)]
        assert ours == theirs
        grids = [re.search(r"Reference image geometry\|([^|]*);\|", text) for text in parameters]
        one, other = ([float(n) for n in grid[1].split(";")] for grid in grids if grid is not None)
        np.testing.assert_allclose(one, other, atol=1e-9)

        loaded = read_back(tmp_path / "ours.seg.nrrd", mrml.scene)
        assert names(loaded) == names(node)
        exported = mrml.exported(loaded, reference)
        assert exported.same_grid(volume)
        np.testing.assert_array_equal(exported.voxels, labels)
        assert read_volume(tmp_path / "ours.seg.nrrd").same_grid(volume)

    def test_the_scene_keeps_provenance_and_references(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        transform = mrml.linear_transform(affine(TILTED), reference)
        volume = volume_from_node(reference)
        node = segmentation_node(segmentation_of(volume.with_voxels(random_labels(SHAPE))), reference)
        mrml.scene.SetSaveToXMLString(1)
        mrml.scene.Commit()
        text = mrml.scene.GetSceneXMLString()

        other = slicer.vtkMRMLScene()
        other.SetLoadFromXMLString(1)
        other.SetSceneXMLString(text)
        other.Import()
        loaded = other.GetNodeByID(node.GetID())
        assert loaded.GetAttribute("KDSegmentator.pack_id") == "hippocampus-x1_4"
        assert loaded.GetAttribute("KDSegmentator.pack_sha256") == "ab" * 32
        assert loaded.GetNodeReferenceID("referenceImageGeometryRef") == reference.GetID()
        assert loaded.GetTransformNodeID() == transform.GetID()

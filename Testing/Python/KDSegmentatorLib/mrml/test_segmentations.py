from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.errors import GeometryError, SceneError
from KDSegmentatorLib.geometry import Vector, Volume
from KDSegmentatorLib.mrml import segmentations
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorLib.mrml.volumes import volume_from_node
from support.mrml_scene import (
    AXIS_ORDERS,
    LABELS,
    RECORD,
    TILTED,
    UPRIGHT,
    MrmlScene,
    affine,
    placed,
    random_labels,
    segmentation_of,
    tag,
    to_ras,
)

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def names(node: Any) -> list[str]:
    segments = node.GetSegmentation()
    return [segments.GetSegment(segment_id).GetName() for segment_id in segments.GetSegmentIDs()]


def read_back(path: Path, scene: Any) -> Any:
    """Load a .seg.nrrd file into a scene."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "loaded")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


@pytest.mark.parametrize("degrees", [UPRIGHT, TILTED], ids=["upright", "oblique"])
@pytest.mark.parametrize("codes", AXIS_ORDERS)
def test_voxels_are_where_they_were_found(mrml: MrmlScene, codes: str, degrees: Vector) -> None:
    volume = placed(SCAN, codes, degrees)
    reference = mrml.volume_node(volume)
    labels = random_labels(SHAPE)
    node = segmentation_node(segmentation_of(volume_from_node(reference).with_voxels(labels)), reference)
    exported = mrml.exported(node, reference)
    assert exported.same_grid(volume)
    np.testing.assert_array_equal(exported.voxels, labels)


@settings(max_examples=30, deadline=None)
@given(
    codes=st.sampled_from(AXIS_ORDERS),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 10)] * 3),
    origin=st.tuples(*[st.floats(-1000, 1000)] * 3),
    turn=st.none() | st.tuples(*[st.floats(-180, 180)] * 3),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    seed=st.integers(0, 99),
)
def test_any_grid_is_kept(
    codes: str,
    degrees: Vector,
    spacing: Vector,
    origin: Vector,
    turn: Vector | None,
    shape: tuple[int, int, int],
    seed: int,
) -> None:
    mrml = MrmlScene(slicer.vtkMRMLScene())
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(mrml.scene)
    labels = random_labels(shape, seed)
    reference = mrml.volume_node(placed(np.zeros(shape, np.int16), codes, degrees, spacing, origin))
    if turn is not None:
        mrml.linear_transform(affine(turn, (10, -20, 30)), reference)
    volume = volume_from_node(reference)
    node = segmentation_node(segmentation_of(volume.with_voxels(labels)), reference)
    exported = mrml.exported(node, reference)
    assert exported.same_grid(volume)
    np.testing.assert_array_equal(exported.voxels, labels)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "ASR", "SRP"])
def test_a_marked_voxel_is_found_at_its_point(mrml: MrmlScene, codes: str) -> None:
    """By Slicer's own reckoning: the segment's centre in world coordinates, and the surface it makes for 3-D."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(mrml.scene)  # registers the conversion to surfaces
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 1, 4] = 3
    reference = mrml.volume_node(placed(SCAN, codes, TILTED))
    mrml.linear_transform(affine((40, 0, -70), (5, 6, 7)), reference)
    volume = volume_from_node(reference)
    node = segmentation_node(segmentation_of(volume.with_voxels(labels)), reference)
    expected = to_ras(volume, (2, 1, 4))

    center = [0.0, 0.0, 0.0]
    node.GetSegmentCenterRAS("Segment_3", center)
    assert center == pytest.approx(expected, abs=1e-6)

    assert node.CreateClosedSurfaceRepresentation()
    surface = vtk.vtkPolyData()
    node.GetClosedSurfaceRepresentation("Segment_3", surface)
    points = [surface.GetPoint(n) for n in range(surface.GetNumberOfPoints())]
    world = [0.0, 0.0, 0.0]
    node.TransformPointToWorld(np.mean(points, axis=0).tolist(), world)
    assert world == pytest.approx(expected, abs=0.05)
    del logic


def test_segments_have_order_names_colours_and_values(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    segments = node.GetSegmentation()
    assert segments.GetSegmentIDs() == ("Segment_1", "Segment_3", "Segment_2")
    assert names(node) == ["Anterior hippocampus", "Hippocampe postérieur", "Lesion"]
    for label in LABELS:
        segment = segments.GetSegment(f"Segment_{label.value}")
        assert segment.GetLabelValue() == label.value
        assert np.array(segment.GetColor()) * 255 == pytest.approx(label.color)
        assert not segment.GetNameAutoGenerated()
        assert not segment.GetColorAutoGenerated()
    assert segments.GetNumberOfLayers() == 1
    assert node.GetName() == "T1 hippocampus x1/4"
    assert node.GetDisplayNode() is not None


def test_terminology_is_what_slicer_writes_and_reads(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    logic = slicer.vtkSlicerTerminologiesModuleLogic
    for label in LABELS:
        text = tag(node.GetSegmentation().GetSegment(f"Segment_{label.value}"), "TerminologyEntry")
        entry = slicer.vtkSlicerTerminologyEntry()
        assert logic.DeserializeTerminologyEntry(text, entry)
        assert entry.IsValid()
        assert logic.SerializeTerminologyEntry(entry) == text
        for code, found in (
            (label.terminology.category, entry.GetCategoryObject()),
            (label.terminology.type, entry.GetTypeObject()),
            (label.terminology.type_modifier, entry.GetTypeModifierObject()),
            (label.terminology.region, entry.GetRegionObject()),
            (label.terminology.region_modifier, entry.GetRegionModifierObject()),
        ):
            expected = (code.scheme, code.value, code.meaning) if code else ("", "", "")
            read = (found.GetCodingSchemeDesignator(), found.GetCodeValue(), found.GetCodeMeaning())
            assert tuple(part or "" for part in read) == expected


def test_structures_that_were_not_found_are_empty_segments(mrml: MrmlScene) -> None:
    labels = np.where(random_labels(SHAPE) == 3, 3, 0).astype(np.uint8)
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(labels)), reference)
    assert names(node) == [label.name for label in LABELS]
    np.testing.assert_array_equal(mrml.exported(node, reference).voxels, labels)
    nothing = segmentation_node(segmentation_of(placed(np.zeros_like(labels))), reference)
    assert len(names(nothing)) == 3
    assert not mrml.exported(nothing, reference).voxels.any()


def test_only_the_labels_that_were_asked_for_are_segments(mrml: MrmlScene) -> None:
    labels = np.where(random_labels(SHAPE) == 2, 2, 0).astype(np.uint8)
    node = segmentation_node(segmentation_of(placed(labels), LABELS[2:]), mrml.volume_node(placed(SCAN)))
    assert names(node) == ["Lesion"]


def test_label_values_above_255(mrml: MrmlScene) -> None:
    labels = np.zeros(SHAPE, np.uint16)
    labels[1:, 2:, 3:] = 300
    label = replace(LABELS[0], value=300)
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(labels), (label,)), reference)
    np.testing.assert_array_equal(mrml.exported(node, reference).voxels, labels)


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


def test_provenance_is_complete(mrml: MrmlScene) -> None:
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), mrml.volume_node(placed(SCAN)))
    found = {
        name.removeprefix("KDSegmentator."): node.GetAttribute(name)
        for name in node.GetAttributeNames()
        if name.startswith("KDSegmentator.")
    }
    assert found == {
        "pack_id": "hippocampus-x1_4",
        "pack_version": "1.2.3",
        "pack_sha256": "ab" * 32,
        "task": "hippocampus",
        "size": "x1/4",
        "engine": "onnxruntime",
        "device": "cpu",
        "precision": "float32",
        "threads": "2",
        "checked": "true",
        "mirroring": "false",
        "windows": "8",
        "calls": "7",
        "library_version": "0.1.0",
        "seconds.preprocess": "0.123",
        "seconds.windows": "2.500",
        "seconds.restore": "0.250",
        "seconds.total": "2.873",
    }
    fields = {name for name in RECORD.__dataclass_fields__ if name != "seconds"}
    assert fields <= set(found), "a new field of RunRecord is not kept with the node"
    segment = node.GetSegmentation().GetNthSegment(0)
    assert tag(segment, "DICOM.SegmentAlgorithmType") == "AUTOMATIC"
    assert tag(segment, "DICOM.SegmentAlgorithmName") == "KDSegmentator hippocampus-x1_4 1.2.3"


class TestPlace:
    def test_the_volume_is_the_reference_geometry(self, mrml: MrmlScene) -> None:
        volume = placed(SCAN, "RIA", TILTED)
        reference = mrml.volume_node(volume)
        node = segmentation_node(segmentation_of(volume.with_voxels(random_labels(SHAPE))), reference)
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        assert node.GetNodeReference(role) is reference
        converter = slicer.vtkSegmentationConverter
        text = node.GetSegmentation().GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
        assert text == converter.SerializeImageGeometry(node.GetBinaryLabelmapInternalRepresentation("Segment_1"))

    def test_volume_and_segmentation_move_together(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN, "ASL"))
        transform = mrml.linear_transform(affine(TILTED, (1, 2, 3)), reference)
        labels = random_labels(SHAPE)
        volume = volume_from_node(reference)
        node = segmentation_node(segmentation_of(volume.with_voxels(labels)), reference)
        assert node.GetParentTransformNode() is transform
        np.testing.assert_array_equal(mrml.exported(node, reference).voxels, labels)
        for move in (affine((0, 80, 0), (9, 9, 9)), np.eye(4)):
            matrix = vtk.vtkMatrix4x4()
            matrix.DeepCopy(move.ravel().tolist())
            transform.SetMatrixTransformToParent(matrix)
            np.testing.assert_array_equal(mrml.exported(node, reference).voxels, labels)

    def test_hardened_volume_still_matches(self, mrml: MrmlScene) -> None:
        """The volume was segmented under a transform that was hardened while the run went on."""
        reference = mrml.volume_node(placed(SCAN, "ASL"))
        mrml.linear_transform(affine(TILTED, (1, 2, 3)), reference)
        volume = volume_from_node(reference)
        reference.HardenTransform()
        labels = random_labels(SHAPE)
        node = segmentation_node(segmentation_of(volume.with_voxels(labels)), reference)
        assert node.GetParentTransformNode() is None
        exported = mrml.exported(node, reference)
        assert exported.same_grid(volume)
        np.testing.assert_array_equal(exported.voxels, labels)

    def test_a_result_without_the_transform_matches(self, mrml: MrmlScene) -> None:
        """The labels come from the volume's file, or the transform was set while the run went on."""
        volume = placed(SCAN, "RAS")
        reference = mrml.volume_node(volume)
        mrml.linear_transform(affine(TILTED, (1, 2, 3)), reference)
        labels = random_labels(SHAPE)
        node = segmentation_node(segmentation_of(volume.with_voxels(labels)), reference)
        np.testing.assert_array_equal(mrml.exported(node, reference).voxels, labels)

    def test_image_data_that_does_not_start_at_voxel_zero(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN, "RAS", TILTED))
        reference.GetImageData().SetExtent(2, 7, 3, 7, 5, 8)
        volume = volume_from_node(reference)
        labels = np.zeros(SHAPE, np.uint8)
        labels[2, 1, 4] = 1
        node = segmentation_node(segmentation_of(volume.with_voxels(labels)), reference)
        center = [0.0, 0.0, 0.0]
        node.GetSegmentCenterRAS("Segment_1", center)
        assert center == pytest.approx(to_ras(volume, (2, 1, 4)), abs=1e-6)

    @pytest.mark.parametrize("made_by_slicer", [False, True], ids=["no item yet", "item made when the node is added"])
    def test_it_is_in_the_volumes_study(self, mrml: MrmlScene, made_by_slicer: bool) -> None:
        reference = mrml.volume_node(placed(SCAN))
        hierarchy = mrml.scene.GetSubjectHierarchyNode()
        patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Doe^Jane")
        study = hierarchy.CreateStudyItem(patient, "MR brain")
        hierarchy.CreateItem(study, reference)
        if made_by_slicer:  # as the application does
            mrml.scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, _item_maker(hierarchy))
        node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
        item = hierarchy.GetItemByDataNode(node)
        assert hierarchy.GetItemParent(item) == study
        children = vtk.vtkIdList()
        hierarchy.GetItemChildren(study, children)
        assert children.GetNumberOfIds() == 2

    def test_no_subject_hierarchy_is_made(self, mrml: MrmlScene) -> None:
        segmentation_node(segmentation_of(placed(random_labels(SHAPE))), mrml.volume_node(placed(SCAN)))
        assert mrml.scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode") is None

    def test_a_second_result_gets_another_name(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        result = segmentation_of(placed(random_labels(SHAPE)))
        found = [segmentation_node(result, reference).GetName() for _ in range(2)]
        assert found == ["T1 hippocampus x1/4", "T1 hippocampus x1/4_1"]
        assert segmentation_node(result, reference, mrml.scene, name="Hippocampi").GetName() == "Hippocampi"


class TestFailure:
    """Whatever goes wrong, the scene stays as it was."""

    def check(self, mrml: MrmlScene, error: type[BaseException], match: str, volume: Volume, reference: Any) -> None:
        before = mrml.ids()
        with pytest.raises(error, match=match):
            segmentation_node(segmentation_of(volume), reference)
        assert mrml.ids() == before

    @pytest.mark.parametrize(
        "volume",
        [
            placed(random_labels((4, 5, 7))),
            placed(random_labels(SHAPE), origin=(-31.5, 17.25, 105.0)),
            placed(random_labels(SHAPE), spacing=(0.8, 1.1, 2.6)),
            placed(random_labels(SHAPE), "RPS"),
        ],
        ids=["size", "origin", "spacing", "direction"],
    )
    def test_another_grid(self, mrml: MrmlScene, volume: Volume) -> None:
        self.check(mrml, GeometryError, "does not lie on the voxels of “T1”", volume, mrml.volume_node(placed(SCAN)))

    def test_the_volume_lost_its_image(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        reference.SetAndObserveImageData(None)
        self.check(mrml, GeometryError, "was changed or moved", placed(random_labels(SHAPE)), reference)

    def test_the_transform_became_non_linear(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        mrml.bending_transform(reference)
        self.check(mrml, GeometryError, "non-linear", placed(random_labels(SHAPE)), reference)

    def test_the_volume_was_removed(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        mrml.scene.RemoveNode(reference)
        self.check(mrml, SceneError, "“T1” is not in the scene any more", placed(random_labels(SHAPE)), reference)

    def test_another_scene(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        with pytest.raises(SceneError, match="belongs to another scene"):
            segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference, slicer.vtkMRMLScene())

    @pytest.mark.parametrize("step", ["_segments", "node_attributes", "_complete", "place_beside"])
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_failing_step(
        self, mrml: MrmlScene, monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException]
    ) -> None:
        reference = mrml.volume_node(placed(SCAN))
        hierarchy = mrml.scene.GetSubjectHierarchyNode()
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), reference)
        original = getattr(segmentations, step)

        def failing(*arguments: Any) -> Any:
            original(*arguments)
            raise error("boom")

        monkeypatch.setattr(segmentations, step, failing)
        self.check(mrml, error, "boom", placed(random_labels(SHAPE)), reference)
        children = vtk.vtkIdList()
        hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), children)
        assert children.GetNumberOfIds() == 1


def _item_maker(hierarchy: Any) -> Any:
    @vtk.calldata_type(vtk.VTK_OBJECT)
    def make(_scene: Any, _event: str, node: Any) -> None:
        if node.IsA("vtkMRMLSegmentationNode"):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    return make

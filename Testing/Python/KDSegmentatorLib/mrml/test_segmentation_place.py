from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer
import vtk

from KDSegmentatorLib.errors import GeometryError, SceneError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml import segmentations
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorLib.mrml.volumes import volume_from_node
from support.mrml_scene import (
    TILTED,
    MrmlScene,
    affine,
    placed,
    random_labels,
    segmentation_of,
    to_ras,
)

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


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

    @pytest.mark.parametrize("step", ["_segments", "set_provenance", "_complete", "add_node", "place_beside"])
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

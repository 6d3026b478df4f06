from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.analysis.statistics import label_statistics
from KDSegmentatorLib.errors import GeometryError, SceneError
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.mrml import results
from KDSegmentatorLib.mrml.results import ENTROPY_ROLE, STATISTICS_ROLE, place_result
from KDSegmentatorLib.mrml.segmentations import replace_segmentation, segmentation_node
from KDSegmentatorLib.mrml.volumes import volume_from_node
from support.mrml_scene import (
    LABELS,
    RECORD,
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


def found_in(node: Any, *, entropy: bool = False, seed: int = 0) -> Segmentation:
    volume = volume_from_node(node)
    found = segmentation_of(volume.with_voxels(random_labels(SHAPE, seed)))
    bits = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
    return replace(found, entropy=volume.with_voxels(bits)) if entropy else found


def place(node: Any, found: Segmentation, **options: Any) -> results.PlacedResult:
    statistics = label_statistics(found.volume, found.labels, volume_from_node(node))
    return place_result(found, statistics, node, **options)


def test_everything_belongs_together(mrml: MrmlScene) -> None:
    node = mrml.volume_node(placed(SCAN, "RIA", TILTED))
    hierarchy = mrml.scene.GetSubjectHierarchyNode()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "MR brain")
    hierarchy.CreateItem(study, node)
    found = found_in(node, entropy=True)
    nodes = place(node, found, intensity_unit="HU")
    assert nodes.segmentation.GetNodeReference(STATISTICS_ROLE) is nodes.statistics
    assert nodes.segmentation.GetNodeReference(ENTROPY_ROLE) is nodes.entropy
    assert nodes.statistics.GetName() == "T1 hippocampus x1/4 statistics"
    for each in (nodes.segmentation, nodes.statistics, nodes.entropy):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(each)) == study
        assert each.GetAttribute("KDSegmentator.pack_id") == RECORD.pack_id


def test_the_table_has_the_statistics(mrml: MrmlScene) -> None:
    node = mrml.volume_node(placed(SCAN))
    found = found_in(node)
    found.volume.voxels[found.volume.voxels == 2] = 0
    table = place(node, found, intensity_unit="HU").statistics
    assert [table.GetColumnName(n) for n in range(table.GetNumberOfColumns())] == [
        "Structure",
        "Volume (ml)",
        "Mean intensity (HU)",
        "SD of intensity (HU)",
        "Voxels",
    ]
    rows = label_statistics(found.volume, LABELS, volume_from_node(node))
    columns = table.GetTable()
    for index, row in enumerate(rows):
        assert table.GetCellText(index, 0) == row.name
        assert columns.GetColumn(1).GetValue(index) == pytest.approx(row.volume_ml, abs=5e-4)
        assert columns.GetColumn(4).GetValue(index) == row.voxels
    assert columns.GetColumn(2).GetValue(0) == pytest.approx(rows[0].mean_intensity, abs=5e-3)
    assert np.isnan(columns.GetColumn(2).GetValue(2)), "an absent structure has no intensity"
    assert table.GetLocked()


@pytest.mark.parametrize("transformed", [False, True], ids=["plain", "transformed"])
def test_the_map_lies_on_the_volume(mrml: MrmlScene, transformed: bool) -> None:
    node = mrml.volume_node(placed(SCAN, "ASL", TILTED))
    if transformed:
        mrml.linear_transform(affine((10, 20, 30), (1, 2, 3)), node)
    node.GetImageData().SetExtent(2, 7, 3, 7, 5, 8)
    found = found_in(node, entropy=True)
    entropy = place(node, found).entropy
    assert entropy is not None
    assert found.entropy is not None
    result = volume_from_node(entropy)
    assert result.same_grid(volume_from_node(node))
    assert to_ras(result, (1, 2, 3)) == pytest.approx(to_ras(volume_from_node(node), (1, 2, 3)))
    np.testing.assert_array_equal(result.voxels, found.entropy.voxels)
    assert entropy.GetTransformNodeID() == node.GetTransformNodeID()


class TestReplace:
    def test_the_node_stays_and_its_content_is_new(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(SCAN, "RAS", TILTED))
        first = place(node, found_in(node, entropy=True))
        first.segmentation.SetName("Mine")
        first.segmentation.SetAttribute("Reviewed", "yes")
        display = first.segmentation.GetDisplayNode()
        second = replace(found_in(node, seed=5), labels=LABELS[:2], record=replace(RECORD, size="x1"))
        nodes = place(node, second, into=first.segmentation)
        assert nodes.segmentation is first.segmentation
        assert nodes.segmentation.GetDisplayNode() is display
        assert nodes.segmentation.GetName() == "Mine"
        assert nodes.segmentation.GetAttribute("Reviewed") == "yes"
        assert nodes.segmentation.GetAttribute("KDSegmentator.size") == "x1"
        assert nodes.segmentation.GetSegmentation().GetSegmentIDs() == ("Segment_1", "Segment_3")
        exported = mrml.exported(nodes.segmentation, node).voxels
        expected = second.volume.voxels.copy()
        expected[expected == 2] = 0
        np.testing.assert_array_equal(exported, expected)

    def test_its_table_and_map_are_updated_where_they_are(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(SCAN, "RAS", TILTED))
        first = place(node, found_in(node, entropy=True))
        assert first.entropy is not None
        hierarchy = mrml.scene.GetSubjectHierarchyNode()
        folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Mine")
        for each in (first.statistics, first.entropy):
            each.SetName("Mine")
            each.SetAttribute("Reviewed", "yes")
            hierarchy.CreateItem(folder, each)
        other = mrml.volume_node(placed(SCAN, "ASL"), "Other")
        mrml.linear_transform(affine((10, 20, 30), (1, 2, 3)), other)
        found = replace(found_in(other, entropy=True, seed=5), labels=LABELS[:2], record=replace(RECORD, size="x1"))
        before = mrml.ids()
        nodes = place(other, found, into=first.segmentation, intensity_unit="HU")
        assert mrml.ids() == before
        assert (nodes.statistics, nodes.entropy) == (first.statistics, first.entropy)
        assert first.segmentation.GetNodeReference(STATISTICS_ROLE) is first.statistics
        assert first.segmentation.GetNodeReference(ENTROPY_ROLE) is first.entropy
        assert first.statistics.GetNumberOfRows() == 2
        assert first.statistics.GetColumnName(2) == "Mean intensity (HU)"
        assert found.entropy is not None
        shown = volume_from_node(first.entropy)
        assert shown.same_grid(volume_from_node(other))
        np.testing.assert_array_equal(shown.voxels, found.entropy.voxels)
        for each in (first.statistics, first.entropy):
            assert each.GetName() == "Mine"
            assert (each.GetAttribute("Reviewed"), each.GetAttribute("KDSegmentator.size")) == ("yes", "x1")
            assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(each)) == folder

    def test_a_map_that_there_is_no_new_one_for_stays_in_the_scene(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(SCAN))
        first = place(node, found_in(node, entropy=True))
        nodes = place(node, found_in(node, seed=5), into=first.segmentation)
        assert nodes.entropy is None
        assert first.segmentation.GetNodeReference(ENTROPY_ROLE) is None
        assert first.entropy is not None
        assert first.entropy.GetScene() is mrml.scene

    def test_a_table_that_was_removed_is_made_anew(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(SCAN))
        first = place(node, found_in(node))
        mrml.scene.RemoveNode(first.statistics)
        nodes = place(node, found_in(node, seed=5), into=first.segmentation)
        assert nodes.statistics.GetScene() is mrml.scene
        assert first.segmentation.GetNodeReference(STATISTICS_ROLE) is nodes.statistics

    def test_one_that_was_drawn_on_another_volume(self, mrml: MrmlScene) -> None:
        other = mrml.volume_node(placed(SCAN, origin=(500.0, 0.0, 0.0)), "Other")
        drawn = segmentation_node(found_in(other), other)
        node = mrml.volume_node(placed(SCAN))
        found = found_in(node, seed=3)
        replace_segmentation(drawn, found, node)
        np.testing.assert_array_equal(mrml.exported(drawn, node).voxels, found.volume.voxels)
        assert drawn.GetNodeReference("referenceImageGeometryRef") is node

    def test_views_and_data_tree_are_told(self, mrml: MrmlScene) -> None:
        import slicer

        node = mrml.volume_node(placed(SCAN))
        drawn = segmentation_node(found_in(node), node)
        told: list[str] = []
        drawn.AddObserver(slicer.vtkSegmentation.SegmentModified, lambda *_: told.append("modified"))
        replace_segmentation(drawn, found_in(node, seed=3), node)
        assert told

    def test_surfaces_are_made_anew(self, mrml: MrmlScene) -> None:
        import slicer

        logic = slicer.vtkSlicerSegmentationsModuleLogic()
        logic.SetMRMLScene(mrml.scene)
        node = mrml.volume_node(placed(SCAN))
        drawn = segmentation_node(found_in(node), node)
        assert drawn.CreateClosedSurfaceRepresentation()
        replace_segmentation(drawn, found_in(node, seed=3), node)
        assert drawn.GetSegmentation().ContainsRepresentation("Closed surface")
        del logic

    def test_one_that_was_removed(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(SCAN))
        drawn = segmentation_node(found_in(node), node)
        mrml.scene.RemoveNode(drawn)
        with pytest.raises(SceneError, match="not in the scene any more"):
            replace_segmentation(drawn, found_in(node), node)


class TestFailure:
    """Whatever goes wrong, the scene stays as it was."""

    def test_a_volume_that_was_changed(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(SCAN))
        found = found_in(node, entropy=True)
        node.SetOrigin(1, 2, 3)
        before = mrml.ids()
        with pytest.raises(GeometryError, match="does not lie on the voxels"):
            place_result(found, (), node)
        assert mrml.ids() == before

    @pytest.mark.parametrize("step", ["statistics_table_node", "_entropy_node", "place_beside"])
    @pytest.mark.parametrize("into", [False, True], ids=["new", "replaced"])
    def test_a_failing_step(self, mrml: MrmlScene, monkeypatch: pytest.MonkeyPatch, step: str, into: bool) -> None:
        node = mrml.volume_node(placed(SCAN))
        drawn = segmentation_node(found_in(node), node)
        voxels = mrml.exported(drawn, node).voxels
        before = mrml.ids()
        original = getattr(results, step)

        def failing(*arguments: Any, **options: Any) -> Any:
            if step == "place_beside":
                original(*arguments, **options)
            raise RuntimeError("boom")

        monkeypatch.setattr(results, step, failing)
        with pytest.raises(RuntimeError, match="boom"):
            place(node, found_in(node, entropy=True, seed=4), into=drawn if into else None)
        assert mrml.ids() == before
        np.testing.assert_array_equal(mrml.exported(drawn, node).voxels, voxels)

    def test_a_replacement_that_fails_leaves_table_and_map(
        self, mrml: MrmlScene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node = mrml.volume_node(placed(SCAN))
        first = place(node, found_in(node, entropy=True))
        other = mrml.volume_node(placed(SCAN, "ASL"), "Other")
        mrml.linear_transform(affine((10, 20, 30), (1, 2, 3)), other)
        assert first.entropy is not None

        def state() -> tuple[Any, ...]:
            table, entropy = first.statistics, first.entropy
            volume = volume_from_node(entropy)
            attributes = [
                {name: each.GetAttribute(name) for name in each.GetAttributeNames()} for each in (table, entropy)
            ]
            cells = [table.GetCellText(row, 1) for row in range(table.GetNumberOfRows())]
            return cells, volume.voxels.tolist(), volume.affine.tolist(), attributes, mrml.ids()

        before = state()
        monkeypatch.setattr(results, "replace_segmentation", None)  # the last step
        found = replace(found_in(other, entropy=True, seed=5), record=replace(RECORD, size="x1"))
        with pytest.raises(TypeError):
            place(other, found, into=first.segmentation)
        assert state() == before

    def test_a_replacement_that_fails_gives_the_old_segments_back(
        self, mrml: MrmlScene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from KDSegmentatorLib.mrml import segmentations

        node = mrml.volume_node(placed(SCAN))
        drawn = segmentation_node(found_in(node), node)
        attributes = {name: drawn.GetAttribute(name) for name in drawn.GetAttributeNames()}
        original = segmentations.set_provenance
        calls: list[int] = []

        def failing(*arguments: Any) -> None:
            original(*arguments)
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("boom")

        monkeypatch.setattr(segmentations, "set_provenance", failing)
        second = replace(found_in(node, seed=7), record=replace(RECORD, size="x1"))
        with pytest.raises(RuntimeError, match="boom"):
            replace_segmentation(drawn, second, node)
        np.testing.assert_array_equal(mrml.exported(drawn, node).voxels, random_labels(SHAPE))
        assert {name: drawn.GetAttribute(name) for name in drawn.GetAttributeNames()} == attributes

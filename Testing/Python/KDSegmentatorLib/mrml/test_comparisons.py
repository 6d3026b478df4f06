from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.analysis.comparison import compare
from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml import comparisons
from KDSegmentatorLib.mrml.comparisons import comparable_label_maps, comparable_pairs, comparison_table_node
from KDSegmentatorLib.mrml.label_maps import label_volume
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorLib.mrml.volumes import volume_from_node
from support.mrml_scene import LABELS, TILTED, MrmlScene, affine, placed, random_labels, segmentation_of

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
NAMES = ["Anterior hippocampus", "Hippocampe postérieur", "Lesion"]


def test_the_same_structure_has_the_same_value(mrml: MrmlScene) -> None:
    volume = placed(SCAN, "ASR", TILTED)
    reference = mrml.volume_node(volume)
    mrml.linear_transform(affine((10, 20, 30), (1, 2, 3)), reference)
    grid = volume_from_node(reference)
    first = segmentation_node(segmentation_of(grid.with_voxels(random_labels(SHAPE))), reference)
    # the same structures under other values and in another order, as drawn by somebody else
    values = {1: 9, 3: 4, 2: 5}
    drawn = np.zeros(SHAPE, np.uint8)
    for value, other in values.items():
        drawn[random_labels(SHAPE) == value] = other
    labels = tuple(replace(label, value=values[label.value]) for label in reversed(LABELS))
    second = segmentation_node(segmentation_of(grid.with_voxels(drawn), labels), reference)
    maps = comparable_label_maps(first, second)
    assert list(maps.names.values()) == NAMES
    assert maps.first.same_grid(grid)
    np.testing.assert_array_equal(maps.first.voxels, maps.second.voxels)
    assert compare(maps.first, maps.second, maps.names).mean.dice == 1


def test_structures_of_one_only(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    first = segmentation_node(segmentation_of(placed(random_labels(SHAPE)), LABELS[:2]), reference)
    second = segmentation_node(segmentation_of(placed(random_labels(SHAPE)), LABELS[1:]), reference)
    maps = comparable_label_maps(first, second)
    assert list(maps.names.values()) == NAMES
    dice = [label.dice for label in compare(maps.first, maps.second, maps.names).labels]
    assert dice == [0, 1, 0]


def test_every_segmentation_is_made_a_label_map_once(mrml: MrmlScene, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = mrml.volume_node(placed(SCAN))
    teacher, *students = (
        segmentation_node(segmentation_of(placed(random_labels(SHAPE, seed)), LABELS[:count]), reference)
        for seed, count in ((0, 3), (1, 3), (2, 2), (3, 3))
    )
    asked: list[str] = []

    def counted(node: Any, **options: Any) -> Volume:
        asked.append(node.GetID())
        return label_volume(node, **options)

    alone = [comparable_label_maps(teacher, each) for each in students]
    alone.append(comparable_label_maps(students[1], teacher))
    monkeypatch.setattr(comparisons, "label_volume", counted)
    together = comparable_pairs([*((teacher, each) for each in students), (students[1], teacher)])
    assert sorted(asked) == sorted(each.GetID() for each in (teacher, *students))
    for one, other in zip(together, alone, strict=True):
        assert one.names == other.names
        np.testing.assert_array_equal(one.first.voxels, other.first.voxels)
        np.testing.assert_array_equal(one.second.voxels, other.second.voxels)


def test_table(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    first = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    second = segmentation_node(segmentation_of(placed(random_labels(SHAPE, 1))), reference)
    maps = comparable_label_maps(first, second)
    comparison = compare(maps.first, maps.second, maps.names)
    table = comparison_table_node(comparison, mrml.scene, name="x1 and x1/4", titles=("x1", "x1/4"))
    assert table.GetNumberOfRows() == 3
    assert [table.GetColumnName(n) for n in (0, 4, 5)] == ["Structure", "x1 (ml)", "x1/4 (ml)"]
    assert table.GetTable().GetColumn(1).GetValue(0) == pytest.approx(comparison.labels[0].dice, abs=1e-4)


class TestBadInput:
    def test_no_volume(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
        mrml.scene.RemoveNode(reference)
        with pytest.raises(SceneError, match="not in the scene; load it"):
            comparable_label_maps(node, node)

    def test_no_common_name(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        first = segmentation_node(segmentation_of(placed(random_labels(SHAPE)), LABELS[:1]), reference)
        second = segmentation_node(segmentation_of(placed(random_labels(SHAPE)), LABELS[1:]), reference)
        with pytest.raises(SceneError, match="no structure with the same name"):
            comparable_label_maps(first, second)

    def test_no_segments(self, mrml: MrmlScene) -> None:
        reference = mrml.volume_node(placed(SCAN))
        first = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
        empty = mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
        with pytest.raises(SceneError, match="“Empty” has no segments"):
            comparable_label_maps(first, empty)

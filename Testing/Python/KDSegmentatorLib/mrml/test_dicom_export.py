"""Slicer's DICOM export of segmentations, by its own steps as far as they go without the application."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml.segmentations import replace_segmentation, segmentation_node
from support.dicom_series import export_segmentation, is_segment_empty, write_series
from support.mrml_scene import LABELS, MrmlScene, placed, random_labels, segmentation_of

SHAPE = (4, 5, 6)
NAMED = tuple(replace(label, name=label.name.replace("é", "e")) for label in LABELS)  # the converter takes ASCII only
SCAN = placed(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))


def without(*values: int) -> Volume:
    """Return labels in which these are absent."""
    labels = random_labels(SHAPE)
    labels[np.isin(labels, values)] = 0
    return SCAN.with_voxels(labels)


def empty_segments(node: Any) -> list[bool]:
    segments = node.GetSegmentation()
    return [is_segment_empty(segments.GetSegment(each)) for each in segments.GetSegmentIDs()]


def test_a_result_is_not_taken_for_empty(mrml: MrmlScene) -> None:
    node = segmentation_node(segmentation_of(without()), mrml.volume_node(SCAN))
    assert empty_segments(node) == [False, False, False]


def test_nor_is_one_that_replaced_another(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(SCAN)
    node = segmentation_node(segmentation_of(without(1, 2, 3)), reference)
    assert all(empty_segments(node))
    replace_segmentation(node, segmentation_of(without()), reference)
    assert empty_segments(node) == [False, False, False]


@pytest.mark.parametrize("absent", [(), (1,), (2,), (3,), (1, 3)], ids=str)
@pytest.mark.parametrize("saved", [False, True], ids=["new", "saved"])
def test_the_exported_file_has_what_was_found(
    mrml: MrmlScene, tmp_path: Path, absent: tuple[int, ...], saved: bool
) -> None:
    """Absent structures share the label map, so the exporter hands the converter a map of zeros, which it leaves out.

    Layers of their own would be asked about before every export, and saving would merge them into the shared one.
    """
    pytest.importorskip("pydicom", reason="needs pydicom to write a series")
    pytest.importorskip("dcmqi", reason="needs Slicer's converter: pip install dcmqi")
    volume = without(*absent)
    node = segmentation_node(segmentation_of(volume, NAMED), mrml.volume_node(SCAN))
    if saved:
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / "saved.seg.nrrd"))
        assert node.GetStorageNode().WriteData(node)
    series = tmp_path / "series"
    series.mkdir()
    write_series(SCAN, series)
    exported = export_segmentation(node, series, tmp_path)
    found = [label for label in NAMED if label.value not in absent]
    assert [each.SegmentLabel for each in exported.SegmentSequence] == [label.name for label in found]
    assert {each.SegmentAlgorithmType for each in exported.SegmentSequence} == {"AUTOMATIC"}
    voxels = np.zeros(SHAPE, np.uint8)
    for pixels, frame in zip(exported.pixel_array, exported.PerFrameFunctionalGroupsSequence, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        height = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        voxels[round((height - SCAN.origin[2]) / SCAN.spacing[2])][pixels == 1] = found[number - 1].value
    np.testing.assert_array_equal(voxels, volume.voxels)

"""Results of the scene as DICOM objects of the series that their volume was loaded from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("highdicom", reason="needs DICOM: pip install 'kdsegmentator[dicom]'")
import pydicom

from KDSegmentatorLib.analysis.seg_nrrd import parse_terminology, terminology_entry
from KDSegmentatorLib.dicom.series import DicomSeries, read_series
from KDSegmentatorLib.errors import GeometryError, SceneError
from KDSegmentatorLib.mrml.dicom_export import export_dicom
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from support.dicom_readers import labels_by_contours, labels_by_highdicom
from support.dicom_series import write_series
from support.mrml_scene import LABELS, TILTED, MrmlScene, affine, placed, random_labels, segmentation_of

SHAPE = (4, 5, 6)
SCAN = placed(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), degrees=TILTED)


@pytest.fixture
def series(tmp_path: Path) -> DicomSeries:
    (tmp_path / "series").mkdir()
    write_series(SCAN, tmp_path / "series")
    return read_series(tmp_path / "series")


def database(folder: Path) -> dict[str, str]:
    return {str(pydicom.dcmread(file).SOPInstanceUID): str(file) for file in folder.iterdir()}


def loaded(mrml: MrmlScene, files: dict[str, str], codes: str = "LPS") -> Any:
    """Return the volume node that Slicer makes of the series; its slices may run the other way."""
    node = mrml.volume_node(SCAN.reoriented(codes) if codes != "LPS" else SCAN)
    node.SetAttribute("DICOM.instanceUIDs", " ".join(files))
    return node


@pytest.mark.parametrize("moved", [False, True], ids=["", "under a transform"])
@pytest.mark.parametrize("reversed_", [False, True], ids=["", "slices reversed"])
def test_a_result_is_written_on_the_images_of_its_volume(
    mrml: MrmlScene, tmp_path: Path, series: DicomSeries, reversed_: bool, moved: bool
) -> None:
    files = database(tmp_path / "series")
    codes = SCAN.axis_codes
    turned = codes[:2] + {"S": "I", "I": "S", "L": "R", "R": "L", "A": "P", "P": "A"}[codes[2]]
    reference = loaded(mrml, files, turned if reversed_ else "LPS")
    labels = SCAN.with_voxels(random_labels(SHAPE))
    node = segmentation_node(segmentation_of(labels.reoriented(turned) if reversed_ else labels), reference)
    if moved:
        mrml.linear_transform(affine((10.0, 20.0, 30.0), (5.0, 6.0, 7.0)), reference, node)
    node.SetName("T1: brain/x1")

    written = export_dicom(node, files.__getitem__, tmp_path)

    assert [path.name for path in written] == [f"T1_ brain_x1-{form}.dcm" for form in ("seg", "rtstruct", "sr")]
    on_images = labels.reoriented(series.volume.axis_codes).voxels
    np.testing.assert_array_equal(labels_by_highdicom(written[0], series), on_images)
    np.testing.assert_array_equal(labels_by_contours(pydicom.dcmread(written[1]), series), on_images)
    left = pydicom.dcmread(written[0]).SegmentSequence[0]
    assert left.SegmentAlgorithmType == "AUTOMATIC"
    assert left.SegmentAlgorithmName == "hippocampus-x1_4"
    modifier = left.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeMeaning == "Left"


def test_an_edited_result_is_said_to_be_edited(mrml: MrmlScene, tmp_path: Path, series: DicomSeries) -> None:
    files = database(tmp_path / "series")
    node = segmentation_node(segmentation_of(SCAN.with_voxels(random_labels(SHAPE))), loaded(mrml, files))
    node.GetSegmentation().RemoveSegment("Segment_2")
    segmentation = export_dicom(node, files.__getitem__, tmp_path, ["seg"])[0]
    segments = pydicom.dcmread(segmentation).SegmentSequence
    assert [each.SegmentAlgorithmType for each in segments] == ["SEMIAUTOMATIC"] * 2


def test_what_cannot_be_exported_is_said(mrml: MrmlScene, tmp_path: Path, series: DicomSeries) -> None:
    files = database(tmp_path / "series")
    reference = loaded(mrml, files)
    node = segmentation_node(segmentation_of(SCAN.with_voxels(random_labels(SHAPE))), reference)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SceneError, match=r"4 of the 4 images that “T1 hippo.*are not in Slicer's DICOM database"):
        export_dicom(node, lambda uid: "", tmp_path)
    reference.SetOrigin(0, 0, 0)
    with pytest.raises(GeometryError, match="do not lie on the images"):
        export_dicom(node, files.__getitem__, tmp_path)
    reference.SetAttribute("DICOM.instanceUIDs", " ")
    with pytest.raises(SceneError, match="“T1” was not loaded from DICOM"):
        export_dicom(node, files.__getitem__, tmp_path)
    node.RemoveAttribute("KDSegmentator.pack_id")
    reference.SetAttribute("DICOM.instanceUIDs", " ".join(files))
    with pytest.raises(SceneError, match="was not made by KDSegmentator"):
        export_dicom(node, files.__getitem__, tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.name)
def test_terminology_comes_back_from_its_text(label: Any) -> None:
    assert parse_terminology(terminology_entry(label.terminology)) == label.terminology


def test_a_segment_without_terminology_is_tissue() -> None:
    assert parse_terminology("").type.meaning == "Tissue"

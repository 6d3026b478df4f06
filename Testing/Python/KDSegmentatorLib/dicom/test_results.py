"""All objects of one result: read back by other programs, valid, the same again, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.uid import generate_uid

from KDSegmentatorLib.dicom.labelled_images import LabelledImages, of_segmentation
from KDSegmentatorLib.dicom.results import FORMS, DicomResults
from KDSegmentatorLib.dicom.series import DicomSeries, read_series
from KDSegmentatorLib.errors import GeometryError, InvalidSettingsError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from support.dicom_readers import (
    complaints,
    labels_by_contours,
    labels_by_dcmqi,
    labels_by_frames,
    labels_by_highdicom,
    labels_by_plastimatch,
)
from support.dicom_series import write_series
from support.mrml_scene import AXIS_ORDERS, TILTED, UPRIGHT, placed, random_labels, segmentation_of

SHAPE = (5, 8, 9)
NAMES = ["Anterior hippocampus", "Lesion", "Hippocampe posterieur"]  # by their values; ASCII is all that the series has


@pytest.fixture(autouse=True)
def nothing_is_doubted() -> Iterator[None]:
    """Let pydicom's and highdicom's warnings fail: what they doubt is not written."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def series_of(
    folder: Path, codes: str = "LPS", degrees: Any = UPRIGHT, edit: Any = lambda image, k: None
) -> DicomSeries:
    """Write a CT and read it."""
    folder.mkdir()
    voxels = np.random.default_rng(1).integers(-500, 500, SHAPE).astype(np.int16)

    def complete(image: Any, k: int) -> None:
        image.BodyPartExamined = "HEAD"
        edit(image, k)

    write_series(placed(voxels, codes, degrees), folder, edit=complete)
    return read_series(folder)


def sparse_labels(shape: tuple[int, ...] = SHAPE) -> npt.NDArray[np.uint8]:
    """Return labels without symmetry, with empty slices: at the beginning, in the middle and for single structures."""
    labels = random_labels(shape)
    labels[[0, 3]] = 0
    labels[1][labels[1] == 2] = 0
    return labels


def result_of(series: DicomSeries, labels: npt.NDArray[np.uint8] | None = None) -> LabelledImages:
    voxels = sparse_labels(series.volume.voxels.shape) if labels is None else labels
    return of_segmentation(segmentation_of(series.volume.with_voxels(voxels)), series)


@pytest.mark.parametrize("codes", AXIS_ORDERS)
def test_labels_lie_on_their_images_in_every_order(tmp_path: Path, codes: str) -> None:
    series = series_of(tmp_path / "series", codes)
    images = result_of(series)
    results = DicomResults(images, FORMS)
    for form in ("seg", "labelmap"):
        results.write(form, tmp_path / f"{form}.dcm")
        np.testing.assert_array_equal(labels_by_highdicom(tmp_path / f"{form}.dcm", series), images.voxels)
    np.testing.assert_array_equal(labels_by_frames(tmp_path / "seg.dcm", series), images.voxels)
    np.testing.assert_array_equal(labels_by_contours(results.make("rtstruct"), series), images.voxels)


@pytest.mark.parametrize(
    ("codes", "degrees"), [("LPS", UPRIGHT), ("RAI", UPRIGHT), ("LSP", UPRIGHT), ("PSL", TILTED), ("LPS", TILTED)]
)
def test_other_programs_read_the_same_voxels(tmp_path: Path, codes: str, degrees: Any) -> None:
    series = series_of(tmp_path / "series", codes, degrees)
    images = result_of(series)
    results = DicomResults(images, ["seg", "rtstruct"])
    for form in ("seg", "rtstruct"):
        results.write(form, tmp_path / f"{form}.dcm")
    (tmp_path / "dcmqi").mkdir()
    np.testing.assert_array_equal(labels_by_dcmqi(tmp_path / "seg.dcm", series, tmp_path / "dcmqi"), images.voxels)
    np.testing.assert_array_equal(labels_by_highdicom(tmp_path / "seg.dcm", series), images.voxels)
    np.testing.assert_array_equal(labels_by_contours(pydicom.dcmread(tmp_path / "rtstruct.dcm"), series), images.voxels)
    if codes in ("LPS", "RAI"):  # plastimatch shifts coronal and sagittal series
        found = labels_by_plastimatch(
            tmp_path / "rtstruct.dcm", series, tmp_path / "series", tmp_path / "plastimatch", NAMES
        )
        np.testing.assert_array_equal(found, images.voxels)


def test_slicer_may_hold_the_volume_in_another_order(tmp_path: Path) -> None:
    series = series_of(tmp_path / "series", "LPS", TILTED)
    labels = series.volume.with_voxels(sparse_labels())
    turned = of_segmentation(segmentation_of(labels.reoriented("SRA")), series)
    np.testing.assert_array_equal(turned.voxels, labels.voxels)


def test_a_tilted_series_is_labelled_on_its_own_images(tmp_path: Path) -> None:
    def tilt(image: Any, k: int) -> None:
        image.ImagePositionPatient[1] = round(float(image.ImagePositionPatient[1]) + 0.6 * k, 4)

    series = series_of(tmp_path / "series", edit=tilt)
    assert series.tilt is not None
    images = result_of(series)
    assert images.voxels.shape == SHAPE
    results = DicomResults(images, FORMS)
    for form in FORMS:
        results.write(form, tmp_path / f"{form}.dcm")
    np.testing.assert_array_equal(labels_by_frames(tmp_path / "seg.dcm", series), images.voxels)
    np.testing.assert_array_equal(labels_by_contours(pydicom.dcmread(tmp_path / "rtstruct.dcm"), series), images.voxels)
    assert complaints(tmp_path / "seg.dcm") == []


def test_a_multi_frame_image_is_labelled_frame_by_frame(tmp_path: Path) -> None:
    import highdicom

    series = series_of(tmp_path / "series", degrees=TILTED)
    images = [pydicom.dcmread(path) for path in sorted((tmp_path / "series").iterdir())]
    order = [images[n] for n in (3, 0, 4, 1, 2)]
    for image in order:
        image.PatientBirthDate = "19700101"
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(order, generate_uid(), 7, generate_uid(), 1)
    enhanced.save_as(tmp_path / "enhanced.dcm")
    frames = read_series(tmp_path / "enhanced.dcm")

    result = result_of(frames)
    results = DicomResults(result, FORMS)
    for form in FORMS:
        results.write(form, tmp_path / f"{form}.dcm")

    np.testing.assert_array_equal(labels_by_highdicom(tmp_path / "seg.dcm", series), result.voxels)
    contour = pydicom.dcmread(tmp_path / "rtstruct.dcm").ROIContourSequence[0].ContourSequence[0]
    number = contour.ContourImageSequence[0].ReferencedFrameNumber
    position = enhanced.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient
    normal = np.asarray(series.volume.direction)[:, 2]
    first = np.asarray(contour.ContourData[:3], float)
    assert (first - np.asarray(position, float)) @ normal == pytest.approx(0, abs=1e-2)


def test_every_object_is_valid(tmp_path: Path) -> None:
    results = DicomResults(result_of(series_of(tmp_path / "series")), FORMS)
    for form in FORMS:
        results.write(form, tmp_path / f"{form}.dcm")
    for form in sorted(set(FORMS) - {"labelmap"}):  # dciodvfy of 2022 does not know label maps yet
        assert complaints(tmp_path / f"{form}.dcm") == [], form


@pytest.mark.parametrize("form", FORMS)
def test_an_object_belongs_to_patient_study_and_frame_of_reference(tmp_path: Path, form: str) -> None:
    def named(image: Any, k: int) -> None:
        image.SpecificCharacterSet = "ISO_IR 100"
        image.PatientName, image.PatientID, image.PatientSex = "Müller^Jürgen", "Ü-17", "X"
        image.StudyDescription = "Schädel nativ"
        image.AccessionNumber = "A 1"
        del image.PatientBirthDate, image.ReferringPhysicianName

    series = series_of(tmp_path / "series", edit=named)
    DicomResults(result_of(series), FORMS).write(form, tmp_path / "result.dcm")

    found = pydicom.dcmread(tmp_path / "result.dcm")
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID
    assert found.StudyInstanceUID == series.study_uid
    assert found.SeriesInstanceUID != series.uid
    assert (found.PatientName, found.PatientID, found.PatientSex) == ("Müller^Jürgen", "Ü-17", "X")
    assert (found.StudyDescription, found.AccessionNumber) == ("Schädel nativ", "A 1")
    if form in ("seg", "labelmap", "rtstruct"):
        assert found.FrameOfReferenceUID == series.frame_of_reference_uid
    if form == "seg":
        assert found.SegmentSequence[2].SegmentLabel == "Hippocampe postérieur"


def test_names_that_the_character_set_lacks_are_written_plainly(tmp_path: Path) -> None:
    series = series_of(tmp_path / "series")
    segmentation = DicomResults(result_of(series), ["seg"]).make("seg")
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == NAMES


@pytest.mark.parametrize("form", FORMS)
def test_the_same_result_is_the_same_file_and_another_has_another_uid(tmp_path: Path, form: str) -> None:
    series = series_of(tmp_path / "series")
    labels = sparse_labels()
    other = labels.copy()
    other[4] = 1

    def made(labels: npt.NDArray[np.uint8], name: str) -> tuple[str, bytes]:
        DicomResults(result_of(series, labels), FORMS).write(form, tmp_path / name)
        return str(pydicom.dcmread(tmp_path / name).SOPInstanceUID), (tmp_path / name).read_bytes()

    first, again, another = made(labels, "first.dcm"), made(labels, "again.dcm"), made(other, "other.dcm")
    assert first == again
    assert first[0] != another[0]
    assert first[0].startswith("2.25.")


def test_nothing_found_is_refused(tmp_path: Path) -> None:
    series = series_of(tmp_path / "series")
    with pytest.raises(UnsuitableVolumeError, match="none of the structures was found"):
        result_of(series, np.zeros(SHAPE, np.uint8))


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_images_that_belong_to_nothing_are_refused(tmp_path: Path, keyword: str) -> None:
    def anonymised(image: Any, k: int) -> None:
        setattr(image, keyword, "")

    with pytest.raises(UnsuitableVolumeError, match=r"the images have no .* UID"):
        result_of(series_of(tmp_path / "series", edit=anonymised))


def test_labels_of_another_grid_are_refused(tmp_path: Path) -> None:
    series = series_of(tmp_path / "series")
    shifted = Volume(sparse_labels(), series.volume.spacing, (0.0, 0.0, 0.0), series.volume.direction)
    with pytest.raises(GeometryError, match="do not lie on the images"):
        of_segmentation(segmentation_of(shifted), series)


def test_images_in_another_order_than_the_slices_are_refused(tmp_path: Path) -> None:
    series = series_of(tmp_path / "series")
    with pytest.raises(GeometryError, match="not in the order of the volume's slices"):
        result_of(replace(series, datasets=series.datasets[::-1]))


def test_a_report_needs_a_segmentation(tmp_path: Path) -> None:
    images = result_of(series_of(tmp_path / "series"))
    with pytest.raises(InvalidSettingsError, match="sr refers to the segments"):
        DicomResults(images, ["sr", "rtstruct"])
    with pytest.raises(InvalidSettingsError, match="no DICOM form 'nifti'"):
        DicomResults(images, ["seg", "nifti"])


def test_segments_say_what_they_are_and_what_made_them(tmp_path: Path) -> None:
    from highdicom.color import CIELabColor

    images = result_of(series_of(tmp_path / "series"))
    results = DicomResults(images, ["seg", "labelmap"])
    binary, label_map = results.make("seg"), results.make("labelmap")
    assert [segment.SegmentNumber for segment in binary.SegmentSequence] == [1, 2, 3]
    left, lesion, posterior = binary.SegmentSequence
    kind = left.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning) == ("3741009", "Left")
    assert posterior.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeMeaning == "Right"
    assert CIELabColor(*_lab(lesion)).to_rgb() == pytest.approx((0, 0, 255), abs=1)
    algorithm = left.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("hippocampus-x1_4", "1.2.3")
    assert "sha256=" + "ab" * 32 in algorithm.AlgorithmParameters
    assert left.SegmentAlgorithmType == "AUTOMATIC"
    assert left.TrackingUID == label_map.SegmentSequence[0].TrackingUID != lesion.TrackingUID


def _lab(segment: Any) -> list[float]:
    scaled = segment.RecommendedDisplayCIELabValue
    return [scaled[0] * 100 / 65535, scaled[1] * 255 / 65535 - 128, scaled[2] * 255 / 65535 - 128]


def test_a_label_map_keeps_the_values_and_describes_no_background(tmp_path: Path) -> None:
    labels = sparse_labels()
    labels[labels == 1] = 0
    label_map = DicomResults(result_of(series_of(tmp_path / "series"), labels), ["labelmap"]).make("labelmap")
    assert [segment.SegmentNumber for segment in label_map.SegmentSequence] == [2, 3]


def test_the_report_gives_the_volumes_of_the_segments(tmp_path: Path) -> None:
    from highdicom.sr import Comprehensive3DSR
    from pydicom.sr.codedict import codes

    images = result_of(series_of(tmp_path / "series"))
    results = DicomResults(images, ["seg", "sr"])
    segmentation, report = results.make("seg"), Comprehensive3DSR.from_dataset(results.make("sr"))
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    groups = report.content.get_volumetric_roi_measurement_groups()
    for number, (label, group) in enumerate(zip(images.structures, groups, strict=True), start=1):
        (volume,) = group.get_measurements(name=codes.SCT.Volume)
        assert volume.value == pytest.approx(images.volumes_ml[label.value], abs=1e-3)
        assert volume.unit == codes.UCUM.CubicCentimeter
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert group.referenced_segment.referenced_segment_numbers == [number]
        assert group.tracking_uid == segmentation.SegmentSequence[number - 1].TrackingUID
    assert groups[0].finding_sites[0].laterality == codes.SCT.Left


def test_the_structure_set_is_unapproved_and_its_coordinates_have_three_digits(tmp_path: Path) -> None:
    images = result_of(series_of(tmp_path / "series", degrees=TILTED))
    DicomResults(images, ["rtstruct"]).write("rtstruct", tmp_path / "rtstruct.dcm")
    found = pydicom.dcmread(tmp_path / "rtstruct.dcm")
    assert found.ApprovalStatus == "UNAPPROVED"
    assert [roi.ROIGenerationAlgorithm for roi in found.StructureSetROISequence] == ["AUTOMATIC"] * 3
    numbers = [str(number) for number in found.ROIContourSequence[0].ContourSequence[0].ContourData]
    assert all(len(number.split(".")[1]) == 3 and number != "-0.000" for number in numbers)
    assert list(found.ROIContourSequence[1].ROIDisplayColor) == [0, 0, 255]


def test_an_outline_of_many_thousand_points_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    write_series(Volume(np.zeros((2, 48, 60), np.int16), (0.7, 0.7, 2.0)), folder)
    series = read_series(folder)
    labels = np.zeros((2, 48, 60), np.uint8)
    labels[0] = 1
    labels[0, 1:-1:2, 1:-1:2] = 0  # a sieve, longer than the 64 KB that an explicit value representation allows
    rtstruct = DicomResults(result_of(series, labels), ["rtstruct"])
    rtstruct.write("rtstruct", tmp_path / "rtstruct.dcm")
    found = pydicom.dcmread(tmp_path / "rtstruct.dcm")
    numbers = found.ROIContourSequence[0].ContourSequence[0].ContourData
    assert sum(len(str(number)) + 1 for number in numbers) > 64 * 1024
    np.testing.assert_array_equal(labels_by_contours(found, series), labels)


def test_the_capture_is_the_overlay_picture(tmp_path: Path) -> None:
    from KDSegmentatorLib.analysis.overlay import draw_overlay

    images = result_of(series_of(tmp_path / "series"))
    found = DicomResults(images, ["capture"]).make("capture")
    picture = draw_overlay(
        images.series.volume,
        images.volume,
        images.structures,
        title="hippocampus · hippocampus-x1_4 1.2.3 · not for diagnosis",
        modality="CT",
    )
    np.testing.assert_array_equal(found.pixel_array, np.asarray(picture))

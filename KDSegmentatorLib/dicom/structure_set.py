"""RT Structure Set (RTSTRUCT): the outlines of the structures on the images, as radiotherapy planning takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from highdicom import SOPClass
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import DA, TM
from scipy import ndimage

from KDSegmentatorLib.dicom.instance import MANUFACTURER, concept, finish, fitted, identification
from KDSegmentatorLib.dicom.outlines import outlines
from KDSegmentatorLib.dicom.source_headers import image_positions, item

if TYPE_CHECKING:
    from pydicom import Dataset

    from KDSegmentatorLib.dicom.labelled_images import LabelledImages
    from KDSegmentatorLib.packs.manifest import Label

SERIES_NUMBER = 9003

_SHORT_STRING = 16
_CONTOUR_DATA = Tag("ContourData")


def structure_set(images: LabelledImages) -> SOPClass:
    """Return labels as an unapproved structure set with one ROI a structure.

    Contours run along the edges of the pixels (:mod:`KDSegmentatorLib.dicom.outlines`), in the planes of the images, in
    mm with three digits after the point. Structures that were not found are left out.
    """
    source, algorithm = images.series.datasets[0], images.algorithm
    title = f"{MANUFACTURER} {algorithm.task} {algorithm.size}"
    instance = SOPClass(
        study_instance_uid=images.series.study_uid,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        # an explicit VR has two bytes for the length of Contour Data: 64 KB, about two thousand points
        transfer_syntax_uid=ImplicitVRLittleEndian,
        **identification(images, description=title, series_number=SERIES_NUMBER),
    )
    instance.OperatorsName = None
    instance.FrameOfReferenceUID = images.series.frame_of_reference_uid
    instance.PositionReferenceIndicator = source.get("PositionReferenceIndicator")
    instance.StructureSetLabel = fitted(algorithm.task, images.series, _SHORT_STRING)
    instance.StructureSetName = fitted(title, images.series)
    made_by = fitted(f"{algorithm.pack_id} {algorithm.pack_version}", images.series)
    instance.StructureSetDescription = f"{made_by}, not reviewed"
    instance.StructureSetDate, instance.StructureSetTime = DA(images.created.date()), TM(images.created.time())
    references = _image_references(images)
    instance.ReferencedFrameOfReferenceSequence = [_frame_of_reference(images, references)]
    contours = _contours(images, references)
    rois = [(number, label) for number, label in enumerate(images.structures, start=1)]
    instance.StructureSetROISequence = [_roi(number, label, images) for number, label in rois]
    instance.ROIContourSequence = [_roi_contours(number, label, contours[label.value]) for number, label in rois]
    instance.RTROIObservationsSequence = [_observation(number, label, images) for number, label in rois]
    instance.ApprovalStatus = "UNAPPROVED"
    finish(instance, images)
    return instance


def _image_references(images: LabelledImages) -> list[Dataset]:
    """Return the reference to each image or frame, in the order of the volume."""
    datasets, frames = images.series.datasets, images.series.frame_numbers
    references = [item(ReferencedSOPClassUID=each.SOPClassUID, ReferencedSOPInstanceUID=each.SOPInstanceUID)
                  for each in (datasets * len(frames) if frames else datasets)]  # fmt: skip
    for reference, frame in zip(references, frames, strict=False):
        reference.ReferencedFrameNumber = frame
    return references


def _frame_of_reference(images: LabelledImages, references: list[Dataset]) -> Dataset:
    series = item(SeriesInstanceUID=images.series.uid, ContourImageSequence=references)
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, retired, and still used for this
        ReferencedSOPInstanceUID=images.series.study_uid,
        RTReferencedSeriesSequence=[series],
    )
    return item(FrameOfReferenceUID=images.series.frame_of_reference_uid, RTReferencedStudySequence=[study])


def _roi(number: int, label: Label, images: LabelledImages) -> Dataset:
    return item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=images.series.frame_of_reference_uid,
        ROIName=fitted(label.name, images.series),
        ROIVolume=round(images.volumes_ml[label.value], 3),
        ROIGenerationAlgorithm=images.algorithm.kind,
        ROIGenerationDescription=fitted(f"{images.algorithm.pack_id} {images.algorithm.pack_version}", images.series),
    )


def _roi_contours(number: int, label: Label, contours: list[Dataset]) -> Dataset:
    return item(ROIDisplayColor=list(label.color), ReferencedROINumber=number, ContourSequence=contours)


def _observation(number: int, label: Label, images: LabelledImages) -> Dataset:
    code = concept(label.terminology.type, images.series)
    if label.terminology.type_modifier is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [concept(label.terminology.type_modifier, images.series)]
    return item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIIdentificationCodeSequence=[code],
        RTROIInterpretedType="ORGAN",
        ROIInterpreter=None,
    )


def _contours(images: LabelledImages, references: list[Dataset]) -> dict[int, list[Dataset]]:
    """Return the contours of each structure by its label value, slice by slice."""
    contours: dict[int, list[Dataset]] = {label.value: [] for label in images.structures}
    axes = np.asarray(images.series.volume.direction)[:, :2] * images.series.volume.spacing[:2]
    positions = image_positions(images.series)
    for number, value, corners in _polygons(images.voxels):
        points = positions[number] + (corners - 0.5) @ axes.T
        # as bytes: pydicom would make an object of each number, which takes ten times as long
        text = "\\".join(f"{coordinate:.3f}" for coordinate in (points.round(3) + 0.0).ravel().tolist()).encode("ascii")
        text += b" " * (len(text) % 2)
        contour = item(
            ContourImageSequence=[references[number]],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(points),
        )
        contour[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(text), text, 0, True, True)
        contour.set_original_encoding(is_implicit_vr=True, is_little_endian=True)  # written as it is
        contours[value].append(contour)
    return contours


def _polygons(voxels: npt.NDArray[Any]) -> Iterator[tuple[int, int, npt.NDArray[np.int64]]]:
    """Yield slice, label value and (column, row) corners of each closed outline."""
    for number, labels in enumerate(voxels):
        for value, box in enumerate(ndimage.find_objects(labels), start=1):
            if box is None:
                continue
            top, left = box[0].start, box[1].start
            for corners in outlines(labels[box] == value):
                yield number, value, corners + np.array([left, top])

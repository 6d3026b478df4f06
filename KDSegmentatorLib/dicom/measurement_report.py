"""Structured report of the volumes (SR, template TID 1500): preliminary and unverified, one group a structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from highdicom import sr
from pydicom.sr.codedict import codes

from KDSegmentatorLib.dicom.instance import MANUFACTURER, concept, derived_uid, finish, fitted, identification, tracking
from KDSegmentatorLib.dicom.segmentation_object import Kind, segment_numbers
from KDSegmentatorLib.dicom.source_headers import source_headers
from KDSegmentatorLib.version import __version__

if TYPE_CHECKING:
    from highdicom.seg import Segmentation

    from KDSegmentatorLib.dicom.labelled_images import LabelledImages
    from KDSegmentatorLib.packs.manifest import Label

SERIES_NUMBER = 9004

_LATERALITIES = {("SCT", "7771000"), ("SCT", "24028007"), ("SCT", "51440002"), ("SCT", "66459002")}
"""Left, right, right and left, unilateral (CID 244)."""


def measurement_report(images: LabelledImages, segmentation: Segmentation) -> sr.Comprehensive3DSR:
    """Return a report of the volume of each structure that was found, in cubic centimetres (millilitres).

    Args:
        images: the result.
        segmentation: the DICOM segmentation of the same result, which the report refers to.
    """
    algorithm, series = images.algorithm, images.series
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", __version__, algorithm.pack_sha256),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=fitted(algorithm.pack_id, series),
            serial_number=algorithm.pack_sha256[:16],
        ),
    )
    procedures = {"CT": codes.cid100.CTUnspecifiedBodyRegion, "MR": codes.cid100.MRIUnspecifiedBodyRegion}
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=procedures.get(series.modality, codes.cid100.ImagingProcedure),
        imaging_measurements=[_group(label, images, segmentation) for label in images.structures],
        title=codes.DCM.ImagingMeasurementReport,
    )
    instance = sr.Comprehensive3DSR(
        evidence=[source_headers(series)[0], segmentation],
        content=report[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        record_evidence=False,
        **identification(
            images,
            description=f"{MANUFACTURER} {algorithm.task} {algorithm.size} volumes",
            series_number=SERIES_NUMBER,
        ),
    )
    finish(instance, images)
    return instance


def _group(
    label: Label, images: LabelledImages, segmentation: Segmentation
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Return the measurements of one structure."""
    series, algorithm = images.series, images.algorithm
    identifier, uid = tracking(label, images)
    kind: Kind = "LABELMAP" if segmentation.SegmentationType == "LABELMAP" else "BINARY"
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=identifier),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=segment_numbers(images, kind)[label.value],
            # the series in one item: an item for each of its images in every group makes the file five times as large
            source_series=sr.SourceSeriesForSegmentation(series.uid),
        ),
        finding_category=concept(label.terminology.category, series),
        finding_type=concept(label.terminology.type, series),
        finding_sites=_sites(label, images),
        algorithm_id=sr.AlgorithmIdentification(
            name=fitted(algorithm.pack_id, series),
            version=fitted(algorithm.pack_version, series),
            parameters=[f"{name}={value}" for name, value in {"size": algorithm.size, **algorithm.parameters}.items()],
        ),
        measurements=[
            sr.Measurement(
                name=codes.SCT.Volume, value=round(images.volumes_ml[label.value], 3), unit=codes.UCUM.CubicCentimeter
            )
        ],
    )


def _sites(label: Label, images: LabelledImages) -> list[sr.FindingSite] | None:
    """Return where a structure is: its type with the side or part that a modifier names, or the pack's region."""
    terminology = label.terminology
    place, modifier = terminology.region, terminology.region_modifier
    if place is None:
        place, modifier = terminology.type, terminology.type_modifier
    if place is terminology.type and modifier is None:
        return None
    coded = None if modifier is None else concept(modifier, images.series)
    is_side = modifier is not None and (modifier.scheme, modifier.value) in _LATERALITIES
    site = sr.FindingSite(
        concept(place, images.series),
        laterality=coded if is_side else None,
        topographical_modifier=None if is_side else coded,
    )
    return [site]

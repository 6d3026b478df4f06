"""Secondary capture: the picture of the labels on the scan, for viewers that show no segmentations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from highdicom.sc import SCImage
from pydicom.uid import ExplicitVRLittleEndian

from KDSegmentatorLib.analysis.overlay import draw_overlay
from KDSegmentatorLib.dicom.instance import MANUFACTURER, finish, identification
from KDSegmentatorLib.dicom.source_headers import source_headers

if TYPE_CHECKING:
    from KDSegmentatorLib.dicom.labelled_images import LabelledImages

SERIES_NUMBER = 9005


def capture(images: LabelledImages) -> SCImage:
    """Return the picture of :func:`KDSegmentatorLib.analysis.overlay.draw_overlay` as a colour image in the study.

    It names no patient and lies in no plane of the body: it shows three.
    """
    algorithm, series = images.algorithm, images.series
    title = f"{MANUFACTURER} {algorithm.task} {algorithm.size}"
    picture = draw_overlay(
        series.volume,
        images.volume,
        images.structures,
        title=f"{algorithm.task} · {algorithm.pack_id} {algorithm.pack_version} · not for diagnosis",
        modality="CT" if series.modality == "CT" else "MR",
    )
    instance = SCImage.from_ref_dataset(
        ref_dataset=source_headers(series)[0],
        pixel_array=np.asarray(picture),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),  # highdicom insists on one
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **identification(images, description=f"{title} overlay", series_number=SERIES_NUMBER),
    )
    instance.PatientOrientation = []
    body_part = series.datasets[0].get("BodyPartExamined")
    if body_part:
        instance.BodyPartExamined = body_part
    else:  # one of the two has to be there
        instance.Laterality = ""
    instance.ConversionType = "WSD"  # made on a computer, not digitised
    instance.BurnedInAnnotation = "NO"
    finish(instance, images)
    return instance

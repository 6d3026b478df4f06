"""DICOM Segmentation (SEG): the labels as BINARY segments, which every viewer reads, or as one LABELMAP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.sr.codedict import codes

from KDSegmentatorLib.dicom.instance import MANUFACTURER, concept, finish, fitted, identification, tracking
from KDSegmentatorLib.dicom.source_headers import in_source_order, source_headers

if TYPE_CHECKING:
    from KDSegmentatorLib.dicom.labelled_images import LabelledImages
    from KDSegmentatorLib.packs.manifest import Label

Kind = Literal["BINARY", "LABELMAP"]

SERIES_NUMBERS: dict[Kind, int] = {"BINARY": 9001, "LABELMAP": 9002}


def segmentation_object(images: LabelledImages, kind: Kind = "BINARY") -> Segmentation:
    """Return labels as a DICOM segmentation on the images of the series.

    Structures that were not found are left out. Frames without a voxel are left out too, as everybody does: readers
    put the others where their positions say.

    Args:
        images: the result.
        kind: BINARY has a bit a voxel and structure, and numbers its segments from 1. LABELMAP has a byte (two beyond
            the value 255) a voxel, and numbers them by their values; many archives and viewers do not take it yet.
    """
    numbers = segment_numbers(images, kind)
    table = np.zeros(images.structures[-1].value + 1, dtype=np.min_scalar_type(max(numbers.values())))
    for value, number in numbers.items():
        table[value] = number
    algorithm = images.algorithm
    instance = Segmentation(
        source_images=source_headers(images.series),
        pixel_array=in_source_order(images.series, table[images.voxels]),
        segmentation_type=kind,
        segment_descriptions=[_description(label, numbers[label.value], images) for label in images.structures],
        content_label="SEGMENTATION",
        content_description=fitted(f"{algorithm.task} {algorithm.size}", images.series),
        content_creator_name=f"{MANUFACTURER}^",  # the caret says that there is one part only
        **identification(
            images,
            description=f"{MANUFACTURER} {algorithm.task} {algorithm.size}",
            series_number=SERIES_NUMBERS[kind],
        ),
    )
    if kind == "LABELMAP":
        # highdicom describes the background as segment 0; OHIF 3.12 then gives every structure its neighbour's colour
        instance.SegmentSequence = [item for item in instance.SegmentSequence if item.SegmentNumber != 0]
    finish(instance, images)
    return instance


def segment_numbers(images: LabelledImages, kind: Kind) -> dict[int, int]:
    """Return the number of each structure's segment by its label value."""
    values = [label.value for label in images.structures]
    return dict(zip(values, values if kind == "LABELMAP" else range(1, len(values) + 1), strict=True))


def _description(label: Label, number: int, images: LabelledImages) -> SegmentDescription:
    series, algorithm, terminology = images.series, images.algorithm, label.terminology
    identifier, uid = tracking(label, images)
    category, kind = concept(terminology.category, series), concept(terminology.type, series)
    description = SegmentDescription(
        segment_number=number,
        segment_label=fitted(label.name, series),
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=algorithm.kind,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=fitted(algorithm.pack_id, series),
            family=codes.cid7162.ArtificialIntelligence,
            version=fitted(algorithm.pack_version, series),
            source=MANUFACTURER,
            parameters={"size": algorithm.size, "sha256": algorithm.pack_sha256, **algorithm.parameters},
        ),
        tracking_id=identifier,
        tracking_uid=uid,
        anatomic_regions=None if terminology.region is None else [concept(terminology.region, series)],
        display_color=CIELabColor.from_rgb(*label.color),
    )
    # highdicom has no argument for the modifiers, which say left and right
    if terminology.type_modifier is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            concept(terminology.type_modifier, series)
        ]
    if terminology.region is not None and terminology.region_modifier is not None:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [
            concept(terminology.region_modifier, series)
        ]
    return description

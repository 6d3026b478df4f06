"""What the objects take over from the images of their series, in the form that highdicom wants it.

Images of clinical archives lack attributes that highdicom takes for granted, or hold values that it refuses, such as a
sex of ``unknown``. It is given blanks in their place; the originals go into the finished object as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

if TYPE_CHECKING:
    from KDSegmentatorLib.dicom.series import DicomSeries

_BLANK = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_KEPT = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "PixelSpacing",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)


def source_headers(series: DicomSeries) -> list[Dataset]:
    """Return the headers to give to highdicom: one a slice in the order of the volume, or one of many frames."""
    headers = []
    for dataset in series.datasets:
        header = item(**dict.fromkeys(_BLANK))
        for keyword in _KEPT:
            if keyword in dataset:
                header[keyword] = dataset[keyword]
        header.FrameOfReferenceUID = series.frame_of_reference_uid
        header.PositionReferenceIndicator = dataset.get("PositionReferenceIndicator")
        headers.append(header)
    if series.frame_numbers:
        _add_frames(headers[0], series)
    else:
        orientation = series.datasets[0].ImageOrientationPatient
        for header, dataset in zip(headers, series.datasets, strict=True):
            header.ImageOrientationPatient = orientation  # the reader has let deviations in the last digits pass
            header.SliceThickness = dataset.get("SliceThickness") or series.volume.spacing[2]
            header.SpacingBetweenSlices = series.volume.spacing[2]
    return headers


def _add_frames(header: Dataset, series: DicomSeries) -> None:
    """Give a multi-frame header the functional groups that say where its frames lie, and no others."""
    source = series.datasets[0]
    first = series.frame_numbers[0] - 1

    def group(keyword: str, number: int) -> Any:
        frame = source.PerFrameFunctionalGroupsSequence[number]
        return getattr(frame if keyword in frame else source.SharedFunctionalGroupsSequence[0], keyword)

    header.NumberOfFrames = source.NumberOfFrames
    shared = {keyword: group(keyword, first) for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence")}
    header.SharedFunctionalGroupsSequence = [item(**shared)]
    header.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=group("PlanePositionSequence", number)) for number in range(source.NumberOfFrames)
    ]


def item(**attributes: Any) -> Dataset:
    """Return a data set, as of a sequence, with these attributes."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def in_source_order(series: DicomSeries, slices: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return slices, which are in the order of the volume, in the order of :func:`source_headers`, frames included."""
    return slices[np.argsort(series.frame_numbers)] if series.frame_numbers else slices


def image_positions(series: DicomSeries) -> npt.NDArray[np.float64]:
    """Return (L, P, S) in mm of the first pixel of each image or frame, in the order of the volume: (slices, 3)."""
    if not series.frame_numbers:
        return np.array([dataset.ImagePositionPatient for dataset in series.datasets], dtype=np.float64)
    frames = series.datasets[0].PerFrameFunctionalGroupsSequence
    positions = [frames[number - 1].PlanePositionSequence[0].ImagePositionPatient for number in series.frame_numbers]
    return np.array(positions, dtype=np.float64)

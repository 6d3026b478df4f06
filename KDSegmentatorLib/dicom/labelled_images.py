"""LabelledImages: a result as it lies on the images of its series, from which every DICOM object is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.dicom.series import DicomSeries
from KDSegmentatorLib.dicom.source_headers import image_positions
from KDSegmentatorLib.errors import GeometryError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation
from KDSegmentatorLib.packs.manifest import Label

T = TypeVar("T")

POSITION_TOLERANCE_MM = 0.1
"""How far a slice of the volume may lie from its image: the reader's tolerance for a slice that is out of place."""

_DATES = ("AcquisitionDate", "SeriesDate", "ContentDate", "StudyDate")
_TIMES = ("AcquisitionTime", "SeriesTime", "ContentTime", "StudyTime")
_UNKNOWN_DATE = date(1900, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What made the labels, as far as it goes into DICOM objects.

    Attributes:
        pack_id: id of the pack.
        pack_version: its version.
        pack_sha256: hash of its manifest.
        task: the family.
        size: ``x1``, ``x1/2``, ...
        parameters: what else it was run with, for people.
        edited: whether somebody changed the labels afterwards.
    """

    pack_id: str
    pack_version: str
    pack_sha256: str
    task: str
    size: str
    parameters: dict[str, str]
    edited: bool = False

    @classmethod
    def of(cls, record: RunRecord) -> Algorithm:
        """Return that of a run."""
        parameters = {"engine": record.engine, "device": record.device, "precision": record.precision}
        if record.mirroring:
            parameters["mirroring"] = "yes"
        if record.region is not None:
            parameters["region"] = f"{record.region.pack_id} {record.region.pack_version}"
        return cls(
            pack_id=record.pack_id,
            pack_version=record.pack_version,
            pack_sha256=record.pack_sha256,
            task=record.task,
            size=record.size,
            parameters=parameters,
        )

    @property
    def kind(self) -> Literal["AUTOMATIC", "SEMIAUTOMATIC"]:
        """Segment Algorithm Type and ROI Generation Algorithm."""
        return "SEMIAUTOMATIC" if self.edited else "AUTOMATIC"


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """Labels on the images of a series; made by :func:`labelled_images`.

    Attributes:
        series: the source.
        volume: label values on the grid of the series' volume.
        structures: those that were found, ascending in their values.
        algorithm: what made the labels.
        created: date and time that the objects shall bear.
    """

    series: DicomSeries
    volume: Volume
    structures: tuple[Label, ...]
    algorithm: Algorithm
    created: datetime

    @cached_property
    def voxels(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Label values as they lie on the images, (slice, row, column) in the order of the series."""
        return self.series.on_images(self.volume)

    @cached_property
    def volumes_ml(self) -> dict[int, float]:
        """Volume of each structure in millilitres by its value, on the series' volume, as in all other outputs."""
        counts = np.bincount(self.volume.voxels.ravel(), minlength=self.structures[-1].value + 1)
        return {label.value: float(counts[label.value]) * self.volume.voxel_volume / 1000 for label in self.structures}


def labelled_images(
    labels: Volume,
    structures: tuple[Label, ...],
    algorithm: Algorithm,
    series: DicomSeries,
    *,
    created: datetime | None = None,
) -> LabelledImages:
    """Return a result as it lies on the images of its series.

    Args:
        labels: label values on the grid of the series' volume; its axes may be swapped and reversed, as 3D Slicer has
            them.
        structures: what the values mean; others become background, and structures without a voxel are left out.
        algorithm: what made the labels.
        series: that was segmented.
        created: date and time that the objects shall bear. None takes those of the images, so that the same series,
            pack and settings make the same files, byte by byte, whenever they are made.

    Raises:
        GeometryError: the labels do not lie on the series, or its images not where its volume has them.
        UnsuitableVolumeError: nothing was found, or the images name no study, series or frame of reference.
    """
    check_identified(series)
    volume = labels.reoriented(series.volume.axis_codes)
    if not volume.same_grid(series.volume):
        raise GeometryError(
            f"the labels (size {volume.size}, spacing {volume.spacing} mm) do not lie on the images of series "
            f"{series.uid} (size {series.volume.size}, spacing {series.volume.spacing} mm): segment that series again"
        )
    _check_positions(series)
    counts = np.bincount(volume.voxels.ravel())
    found = tuple(
        label
        for label in sorted(structures, key=lambda label: label.value)
        if label.value < counts.size and counts[label.value]
    )
    if not found:
        raise UnsuitableVolumeError(
            "none of the structures was found, so that a DICOM result would be empty, which viewers take for a damaged "
            "file; nothing was written. Check that this is the right series"
        )
    known = np.zeros(counts.size, dtype=volume.voxels.dtype)
    for label in found:
        known[label.value] = label.value
    return LabelledImages(
        series=series,
        volume=volume.with_voxels(known[volume.voxels]),
        structures=found,
        algorithm=algorithm,
        created=created or _moment(series),
    )


def check_identified(series: DicomSeries) -> None:
    """Check that a result can refer to a series.

    Raises:
        UnsuitableVolumeError: the images have no UID of their study, series or frame of reference.
    """
    missing = [
        name
        for name, uid in (
            ("Study Instance UID", series.study_uid),
            ("Series Instance UID", series.uid),
            ("Frame of Reference UID", series.frame_of_reference_uid),
        )
        if not uid
    ]
    if missing:
        raise UnsuitableVolumeError(
            f"the images have no {' and no '.join(missing)}, without which a DICOM result would belong to nothing "
            "(they were probably taken out to hide the patient); write .nii.gz or .nrrd instead"
        )


def of_segmentation(
    segmentation: Segmentation, series: DicomSeries, *, created: datetime | None = None
) -> LabelledImages:
    """Return the result of a run as it lies on the images of its series; see :func:`labelled_images`."""
    algorithm = Algorithm.of(segmentation.record)
    return labelled_images(segmentation.volume, segmentation.labels, algorithm, series, created=created)


def _check_positions(series: DicomSeries) -> None:
    """Check that each image lies where the volume has its slice: labels must never land on a neighbour.

    Raises:
        GeometryError: one does not.
    """
    normal = np.asarray(series.volume.direction)[:, 2]
    depths = image_positions(series) @ normal
    origin = np.asarray(series.volume.origin) @ normal
    expected = origin + np.arange(series.volume.size[2]) * series.volume.spacing[2]
    if depths.shape != expected.shape or np.abs(depths - expected).max() > POSITION_TOLERANCE_MM:
        raise GeometryError(
            f"the images of series {series.uid} are not in the order of the volume's slices; read the series again"
        )


def _moment(series: DicomSeries) -> datetime:
    """Return date and time of the last image, as far as it says them."""
    header = series.datasets[-1]

    def first(keywords: tuple[str, ...], parse: Callable[[str], T]) -> T | None:
        for keyword in keywords:
            try:
                return parse(str(header.get(keyword) or ""))
            except ValueError:
                continue
        return None

    day = first(_DATES, lambda text: datetime.strptime(text, "%Y%m%d").date()) or _UNKNOWN_DATE
    moment = first(_TIMES, lambda text: datetime.strptime(text.split(".")[0].ljust(6, "0"), "%H%M%S").time()) or time()
    return datetime.combine(day, moment)

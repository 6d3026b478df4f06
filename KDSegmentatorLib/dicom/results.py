"""The DICOM objects of a result as files, by the names of their forms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.io.files import atomic_output

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom import Dataset

    from KDSegmentatorLib.dicom.labelled_images import LabelledImages
    from KDSegmentatorLib.dicom.segmentation_object import Kind

FORMS = ("seg", "labelmap", "rtstruct", "sr", "capture")
"""DICOM segmentation with binary segments, or as a label map; structure set; report of volumes; picture."""


def check_forms(forms: Sequence[str]) -> tuple[str, ...]:
    """Return forms without those that are named twice.

    Raises:
        InvalidSettingsError: one is not known, none is named, or the report is without a segmentation to refer to.
    """
    unknown = [form for form in forms if form not in FORMS]
    if unknown or not forms:
        raise InvalidSettingsError(
            f"there is no DICOM form {', '.join(map(repr, unknown)) or 'named'}; there are: {', '.join(FORMS)}"
        )
    if "sr" in forms and not {"seg", "labelmap"} & set(forms):
        raise InvalidSettingsError(
            "the report sr refers to the segments of a DICOM segmentation: ask for seg (or labelmap) too"
        )
    return tuple(dict.fromkeys(forms))


class DicomResults:
    """Makes the objects of one result; the segmentation, which the report refers to, is made once.

    Args:
        images: the result.
        forms: those that are wanted, of :data:`FORMS`.

    Raises:
        InvalidSettingsError: see :func:`check_forms`.

    Examples:
        >>> results = DicomResults(of_segmentation(segmentation, series), ["seg", "sr"])
        >>> results.write("seg", Path("brain.dcm"))
    """

    def __init__(self, images: LabelledImages, forms: Sequence[str]) -> None:
        self._images = images
        self.forms = check_forms(forms)
        self._segmentations: dict[str, Segmentation] = {}

    def make(self, form: str) -> Dataset:
        """Return an object, file meta information included.

        Args:
            form: one of :attr:`forms`.
        """
        from KDSegmentatorLib.dicom.capture import capture
        from KDSegmentatorLib.dicom.measurement_report import measurement_report
        from KDSegmentatorLib.dicom.structure_set import structure_set

        if form == "rtstruct":
            return structure_set(self._images)
        if form == "sr":
            return measurement_report(self._images, self._segmentation("seg" if "seg" in self.forms else "labelmap"))
        if form == "capture":
            return capture(self._images)
        return self._segmentation(form)

    def write(self, form: str, path: Path) -> None:
        """Write an object as a DICOM file; a file of that name is replaced.

        Args:
            form: one of :attr:`forms`.
            path: the file.

        Raises:
            ImageWriteError: the file could not be written; nothing was left behind.
        """
        instance = self.make(form)
        with atomic_output(path) as unfinished:
            instance.save_as(unfinished, enforce_file_format=True)

    def _segmentation(self, form: str) -> Segmentation:
        from KDSegmentatorLib.dicom.segmentation_object import segmentation_object

        if form not in self._segmentations:
            kind: Kind = "LABELMAP" if form == "labelmap" else "BINARY"
            self._segmentations[form] = segmentation_object(self._images, kind)
        return self._segmentations[form]

"""The DICOM outputs of ``kdseg segment``: OUTPUT as ``.dcm``, and the files of ``--dicom FORMS FOLDER``."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from KDSegmentatorLib.cli.outputs import PlannedOutput, Writer
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.scan import Scan, is_dicom_source

if TYPE_CHECKING:
    from KDSegmentatorLib.dicom.results import DicomResults
    from KDSegmentatorLib.inference.segmentation import Segmentation

SUFFIX = ".dcm"


def is_dicom_output(arguments: argparse.Namespace) -> bool:
    """Return whether OUTPUT is to be a DICOM segmentation."""
    return str(arguments.output).lower().endswith(SUFFIX)


def planned_dicom_outputs(arguments: argparse.Namespace) -> list[PlannedOutput]:
    """Return the files of ``--dicom``; nothing without it.

    Raises:
        InvalidSettingsError: a form is not known, its folder does not exist, or a DICOM result is asked for of what is
            no DICOM series.
        MissingPackageError: the extra ``dicom`` is not installed.
    """
    if not is_dicom_output(arguments) and arguments.dicom is None:
        return []
    if not is_dicom_source(arguments.input):
        option = f"OUTPUT {arguments.output}" if is_dicom_output(arguments) else "--dicom"
        raise InvalidSettingsError(
            f"{option}: a DICOM result refers to the images of a DICOM series, its patient and its study, and "
            f"{arguments.input} is none; give the folder of the series, or write .nii.gz, .nrrd or .mha"
        )
    if is_dicom_output(arguments) and arguments.split is not None:
        raise InvalidSettingsError(
            "--split writes one file for every structure in the format of OUTPUT, and a DICOM segmentation has all of "
            "them in one file; give OUTPUT as .nii.gz, .nrrd or .mha, or leave --split out"
        )
    forms = _forms(arguments)
    if arguments.dicom is None:
        return []
    folder = Path(arguments.dicom[1])
    if not folder.is_dir():
        raise InvalidSettingsError(f"--dicom {folder}: there is no such folder; create it first")
    return [
        PlannedOutput(option=_option(form), path=folder / f"{form}{SUFFIX}", suffixes=(SUFFIX,))
        for form in forms
        if form in _asked(arguments)
    ]


def check_dicom_source(arguments: argparse.Namespace, scan: Scan) -> None:
    """Check before the work that DICOM results can refer to a series, if any are asked for.

    Raises:
        UnsuitableVolumeError: its images say of no study, series or frame of reference that they belong to it.
    """
    if scan.series is not None and (is_dicom_output(arguments) or arguments.dicom is not None):
        from KDSegmentatorLib.dicom.labelled_images import check_identified

        check_identified(scan.series)


def dicom_writers(result: Segmentation, scan: Scan, arguments: argparse.Namespace) -> dict[str, Writer]:
    """Return what writes each DICOM output, by the option that asks for it; empty if there is none."""
    series = scan.series
    if series is None or not (is_dicom_output(arguments) or arguments.dicom is not None):
        return {}

    @cache
    def results() -> DicomResults:
        from KDSegmentatorLib.dicom.labelled_images import of_segmentation
        from KDSegmentatorLib.dicom.results import DicomResults

        return DicomResults(of_segmentation(result, series), _forms(arguments))

    def writer(form: str) -> Writer:
        return lambda path: results().write(form, path)

    writers = {_option(form): writer(form) for form in _asked(arguments)}
    return writers | ({"OUTPUT": writer("seg")} if is_dicom_output(arguments) else {})


def _forms(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the forms that are asked for, checked; OUTPUT is a segmentation, to which a report can refer."""
    from KDSegmentatorLib.dicom.results import check_forms

    return check_forms([*_asked(arguments), *(["seg"] if is_dicom_output(arguments) else [])])


def _asked(arguments: argparse.Namespace) -> list[str]:
    return [] if arguments.dicom is None else [form.strip() for form in arguments.dicom[0].split(",")]


def _option(form: str) -> str:
    return f"--dicom {form}"

"""What is made of a segmentation, in the folder of its job: the files that are delivered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import msgspec

from KDSegmentatorLib.analysis.overlay import write_overlay
from KDSegmentatorLib.analysis.statistics import IMAGE_UNITS, label_statistics, write_statistics
from KDSegmentatorLib.errors import UnsuitableVolumeError
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.io.files import atomic_folder, file_sha256, remove_unfinished
from KDSegmentatorLib.io.images import write_volume
from KDSegmentatorLib.node.scan import Scan
from KDSegmentatorLib.node.settings import DICOM_OUTPUTS, FolderTarget, Rule, Settings
from KDSegmentatorLib.packs.manifest import Manifest

RECORD_NAME = "record.json"


def check_outputs(settings: Settings, rule: Rule, *, dicom: bool) -> None:
    """Check, before long work starts, that a rule makes something of a scan that each of its targets takes.

    Args:
        settings: with the targets.
        rule: what is made, and where it goes.
        dicom: whether the scan is a DICOM series.

    Raises:
        UnsuitableVolumeError: it does not.
    """
    makes_dicom = dicom and any(output in DICOM_OUTPUTS for output in rule.outputs)
    makes_files = any(output not in DICOM_OUTPUTS for output in rule.outputs)
    targets = {target.name: target for target in settings.target}
    for name in rule.targets:
        if not makes_dicom and (not isinstance(targets[name], FolderTarget) or not makes_files):
            what = "it makes none" if dicom else "an image file has no patient and study to make them for"
            raise UnsuitableVolumeError(
                f"rule {rule.name} delivers DICOM objects to {name}, and {what}: give DICOM series, or add 'labels' to "
                "the rule's outputs and a folder to its targets"
            )


def write_outputs(
    folder: Path, scan: Scan, result: Segmentation, rule: Rule, manifest: Manifest, audit: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Write all that a rule asks for into a folder, which appears when all of it is complete.

    Args:
        folder: the folder.
        scan: what was segmented.
        result: on the scan's grid.
        rule: what is made.
        manifest: of the pack.
        audit: what the record shall say of the scan, UIDs and hashes.

    Returns:
        Names of the files, each with its ``sha256`` and, for DICOM, its ``sop_class_uid``, ``sop_instance_uid``
        and ``series_instance_uid``.

    Raises:
        ImageWriteError: a file cannot be written.
        OSError: the folder cannot be made.
        KDSegmentatorError: a DICOM object cannot be made of this series.
    """
    remove_unfinished(folder)
    with atomic_folder(folder) as temporary:
        _write_images(temporary, scan, result, rule, manifest)
        uids = _write_dicom(temporary, scan, result, rule)
        record = {"rule": rule.name, "scan": dict(audit), "run": asdict(result.record), "dicom": uids}
        content = msgspec.json.format(msgspec.json.encode(record), indent=2)
        (temporary / RECORD_NAME).write_bytes(content + b"\n")
        return {
            path.name: {"sha256": file_sha256(path), **uids.get(path.name, {})} for path in sorted(temporary.iterdir())
        }


def _write_images(folder: Path, scan: Scan, result: Segmentation, rule: Rule, manifest: Manifest) -> None:
    if "labels" in rule.outputs:
        names = {label.value: (label.name, label.color) for label in result.labels}
        write_volume(result.volume, folder / "labels.nii.gz", like=scan.file, labels=names)
    if "statistics" in rule.outputs:
        unit = "HU" if manifest.modality == "CT" else IMAGE_UNITS
        statistics = label_statistics(result.volume, result.labels, scan.volume)
        write_statistics(statistics, folder / "statistics.csv", intensity_unit=unit, record=result.record)
    if "overlay" in rule.outputs:
        title = f"{manifest.title} · {manifest.id} {manifest.version} · size {manifest.size}"
        picture = folder / "overlay.png"
        write_overlay(scan.volume, result.volume, result.labels, picture, title=title, modality=manifest.modality)


def _write_dicom(folder: Path, scan: Scan, result: Segmentation, rule: Rule) -> dict[str, dict[str, str]]:
    """Write the DICOM objects; return their UIDs by the names of their files."""
    forms = [output for output in rule.outputs if output in DICOM_OUTPUTS]
    if scan.series is None or not forms:
        return {}
    from pydicom import dcmread

    from KDSegmentatorLib.dicom.labelled_images import of_segmentation
    from KDSegmentatorLib.dicom.results import DicomResults

    results = DicomResults(of_segmentation(result, scan.series), forms)
    uids = {}
    for form in results.forms:
        path = folder / f"{form}.dcm"
        results.write(form, path)
        header = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"])
        uids[path.name] = {
            "sop_class_uid": str(header.SOPClassUID),
            "sop_instance_uid": str(header.SOPInstanceUID),
            "series_instance_uid": str(header.SeriesInstanceUID),
        }
    return uids

"""How a segmentation came about, kept with it in the scene and in its files."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from KDSegmentatorLib.inference.segmentation import RunRecord

if TYPE_CHECKING:
    from slicer import vtkMRMLNode

ATTRIBUTE_PREFIX = "KDSegmentator."
REGION_GIVEN_ATTRIBUTE = f"{ATTRIBUTE_PREFIX}region_given"
"""``true`` if the earlier stage of a chain was left out, because the scan showed nothing but the region already."""

_DICOM_LONG_STRING = 64


def node_attributes(record: RunRecord) -> dict[str, str]:
    """Return a run's record as attributes of the segmentation node, saved with the scene.

    The names are those of :class:`RunRecord` after ``KDSegmentator.``, stages of ``seconds`` after a further dot, for
    example ``KDSegmentator.pack_id`` and ``KDSegmentator.seconds.total``; those of an earlier stage after ``region.``.
    The sentences of the warnings are one text; without warnings there is none.
    """
    attributes = {
        "pack_id": record.pack_id,
        "pack_version": record.pack_version,
        "pack_sha256": record.pack_sha256,
        "task": record.task,
        "size": record.size,
        "engine": record.engine,
        "device": record.device,
        "precision": record.precision,
        "threads": str(record.threads),
        "checked": "true" if record.checked else "false",
        "mirroring": "true" if record.mirroring else "false",
        "windows": str(record.windows),
        "calls": str(record.calls),
        "library_version": record.library_version,
    }
    attributes |= {f"seconds.{stage}": f"{seconds:.3f}" for stage, seconds in record.seconds.items()}
    if record.region is not None:
        earlier = dataclasses.asdict(record.region)
        attributes |= {
            f"region.{name}": str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in earlier.items()
        }
    if record.warnings:
        attributes["warnings"] = " ".join(warning.sentence for warning in record.warnings)
    return {ATTRIBUTE_PREFIX + name: value for name, value in attributes.items()}


def set_provenance(node: vtkMRMLNode, record: RunRecord) -> None:
    """Give a node the attributes of a run in the place of those of an earlier one; others stay."""
    kept = {name: value for name, value in attributes_of(node).items() if not name.startswith(ATTRIBUTE_PREFIX)}
    set_attributes(node, kept | node_attributes(record))


def attributes_of(node: vtkMRMLNode) -> dict[str, str]:
    """Return all attributes of a node."""
    return {name: node.GetAttribute(name) for name in node.GetAttributeNames()}


def set_attributes(node: vtkMRMLNode, attributes: dict[str, str]) -> None:
    """Give a node these attributes and no others."""
    for name in node.GetAttributeNames():
        if name not in attributes:
            node.RemoveAttribute(name)
    for name, value in attributes.items():
        node.SetAttribute(name, value)


def segment_tags(record: RunRecord) -> dict[str, str]:
    """Return what Slicer's DICOM export writes about the algorithm; saved in .seg.nrrd too.

    Without these tags Slicer exports a segment as drawn by hand.
    """
    name = f"KDSegmentator {record.pack_id} {record.pack_version}"
    return {
        "DICOM.SegmentAlgorithmType": "AUTOMATIC",
        "DICOM.SegmentAlgorithmName": name.replace("|", " ")[:_DICOM_LONG_STRING],
    }

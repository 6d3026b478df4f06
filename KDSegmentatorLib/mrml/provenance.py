"""How a segmentation came about, kept with it in the scene and in its files."""

from __future__ import annotations

from KDSegmentatorLib.inference.segmentation import RunRecord

ATTRIBUTE_PREFIX = "KDSegmentator."
_DICOM_LONG_STRING = 64


def node_attributes(record: RunRecord) -> dict[str, str]:
    """Return a run's record as attributes of the segmentation node, saved with the scene.

    The names are those of :class:`RunRecord` after ``KDSegmentator.``, stages of ``seconds`` after a further dot, for
    example ``KDSegmentator.pack_id`` and ``KDSegmentator.seconds.total``.
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
    return {ATTRIBUTE_PREFIX + name: value for name, value in attributes.items()}


def segment_tags(record: RunRecord) -> dict[str, str]:
    """Return what Slicer's DICOM export writes about the algorithm; saved in .seg.nrrd too.

    Without these tags Slicer exports a segment as drawn by hand.
    """
    name = f"KDSegmentator {record.pack_id} {record.pack_version}"
    return {
        "DICOM.SegmentAlgorithmType": "AUTOMATIC",
        "DICOM.SegmentAlgorithmName": name.replace("|", " ")[:_DICOM_LONG_STRING],
    }

"""A segmentation of the scene as DICOM objects of the series that its volume was loaded from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from KDSegmentatorLib.analysis.seg_nrrd import parse_terminology
from KDSegmentatorLib.dicom.labelled_images import Algorithm, LabelledImages, labelled_images
from KDSegmentatorLib.dicom.results import DicomResults
from KDSegmentatorLib.dicom.series import read_series
from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.geometry import Volume, matrix, vector
from KDSegmentatorLib.io.files import write_together
from KDSegmentatorLib.mrml.grids import check_not_sheared, local_to_lps, quoted
from KDSegmentatorLib.mrml.label_maps import label_volume, reference_volume, segment_values
from KDSegmentatorLib.mrml.nodes import ATTRIBUTE_PREFIX, LABELS_ATTRIBUTE, source_instances
from KDSegmentatorLib.mrml.segmentations import labels_sha256
from KDSegmentatorLib.packs.manifest import Label

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode, vtkSegment

FORMS = ("seg", "rtstruct", "sr")
"""Segmentation, structure set for radiotherapy, report of volumes."""

_PARAMETERS = ("engine", "device", "precision")


def source_files(node: vtkMRMLSegmentationNode, file_of_instance: Callable[[str], str]) -> list[Path]:
    """Return the files of the images that the volume of a segmentation was loaded from.

    Args:
        node: the segmentation.
        file_of_instance: ``slicer.dicomDatabase.fileForInstance``: empty for an instance that is not there.

    Raises:
        SceneError: the volume is not in the scene, was not loaded from DICOM, or its files are gone.
    """
    uids = source_instances(node)
    files = [Path(file) for file in (file_of_instance(uid) for uid in uids) if file]
    gone = len(uids) - sum(file.is_file() for file in files)
    if gone:
        raise SceneError(
            f"{gone} of the {len(uids)} images that {quoted(node)} was made on are not in Slicer's DICOM "
            "database any more; import the series again"
        )
    return list(dict.fromkeys(files))


def labelled_node(node: vtkMRMLSegmentationNode, files: Sequence[Path]) -> LabelledImages:
    """Return a segmentation of KDSegmentator as it lies on the images of its volume.

    It is said to be edited if its voxels are not those of the run any more.

    Args:
        node: made on a volume that was loaded from DICOM; a transform that both are under is left out.
        files: of :func:`source_files`.

    Raises:
        SceneError: the segmentation was not made by KDSegmentator.
        KDSegmentatorError: the files are no regular series, or the segmentation does not lie on it.
    """
    pack_id = node.GetAttribute(f"{ATTRIBUTE_PREFIX}pack_id")
    volume = reference_volume(node)
    if pack_id is None or volume is None:
        raise SceneError(
            f"{quoted(node)} was not made by KDSegmentator; export it with Slicer's own dialog (module Data, "
            "right-click it)"
        )

    def attribute(name: str) -> str:
        return str(node.GetAttribute(ATTRIBUTE_PREFIX + name) or "")

    values = segment_values(node)
    voxels = label_volume(node, values=values).voxels
    to_lps = local_to_lps(volume)
    check_not_sheared(volume, to_lps)
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    first = [*volume.GetImageData().GetExtent()[::2], 1.0]
    labels = Volume(voxels, vector(spacing), vector((to_lps @ np.array(first))[:3]), matrix(to_lps[:3, :3] / spacing))
    segments = node.GetSegmentation()
    algorithm = Algorithm(
        pack_id=pack_id,
        pack_version=attribute("pack_version"),
        pack_sha256=attribute("pack_sha256"),
        task=attribute("task"),
        size=attribute("size"),
        parameters={name: attribute(name) for name in _PARAMETERS},
        edited=node.GetAttribute(LABELS_ATTRIBUTE) != labels_sha256(labels),
    )
    structures = tuple(_label(segments.GetSegment(each), value) for each, value in values.items())
    # the values of the images do not matter, and may be compressed
    return labelled_images(labels, structures, algorithm, read_series(files, headers_only=True))


def export_dicom(
    node: vtkMRMLSegmentationNode,
    file_of_instance: Callable[[str], str],
    folder: Path,
    forms: Sequence[str] = FORMS,
) -> list[Path]:
    """Write a segmentation of KDSegmentator as DICOM files, all or none.

    Args:
        node: made on a volume that was loaded from DICOM.
        file_of_instance: ``slicer.dicomDatabase.fileForInstance``.
        folder: for ``<name of the segmentation>-seg.dcm`` and so on; files of these names are replaced.
        forms: of :data:`FORMS`.

    Returns:
        The files.

    Raises:
        KDSegmentatorError: see :func:`source_files`, :func:`labelled_node` and :func:`labelled_images`; or a file could
            not be written.
    """
    results = DicomResults(labelled_node(node, source_files(node, file_of_instance)), forms)
    name = "".join("_" if character in '<>:"/\\|?*' else character for character in node.GetName())
    paths = {form: folder / f"{name}-{form}.dcm" for form in results.forms}
    write_together([(path, partial(results.write, form)) for form, path in paths.items()])
    return list(paths.values())


def _label(segment: vtkSegment, value: int) -> Label:
    import slicer
    import vtk

    entry = vtk.reference("")
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entry)
    red, green, blue = (round(channel * 255) for channel in segment.GetColor())
    return Label(
        value=value, name=segment.GetName(), color=(red, green, blue), terminology=parse_terminology(str(entry))
    )

"""A CT series on disk, and the export of a segmentation to it by the steps of Slicer's DICOMSegmentationPlugin."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np

from KDSegmentatorLib.geometry import Volume
from support.mrml_scene import tag


def write_series(
    volume: Volume, folder: Path, *, modality: str = "CT", edit: Callable[[Any, int], object] = lambda image, k: None
) -> list[Path]:
    """Write a volume (int16) as one CT or MR slice a file; return the files in the order of the slices.

    Args:
        volume: the series.
        folder: exists.
        modality: ``CT`` or ``MR``.
        edit: called with every image, and its number from 0, before it is saved.
    """
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    sop_class = {"CT": CTImageStorage, "MR": MRImageStorage}[modality]
    files = []
    uids = {f"{level}InstanceUID": generate_uid() for level in ("Study", "Series")}
    uids["FrameOfReferenceUID"] = generate_uid()
    empty = ("PatientBirthDate", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator")
    axes = volume.affine[:3, :3] / np.array(volume.spacing)
    for k, pixels in enumerate(volume.voxels):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = sop_class
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        fixed = uids | dict.fromkeys(empty, "") | {
            "SOPClassUID": sop_class, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": modality,
            "PatientName": "Doe^Jane", "PatientID": "1", "PatientSex": "F", "StudyID": "1", "Manufacturer": "none",
            "StudyDate": "20260101", "StudyTime": "000000", "ContentDate": "20260101", "ContentTime": "000000",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SeriesNumber": 1, "InstanceNumber": k + 1, "KVP": 120,
            "AcquisitionNumber": 1, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleIntercept": 0,
            "RescaleSlope": 1,
        }  # fmt: skip
        for name, value in fixed.items():
            setattr(image, name, value)
        image.Rows, image.Columns = pixels.shape
        image.PixelSpacing = [volume.spacing[1], volume.spacing[0]]
        image.SliceThickness = volume.spacing[2]
        image.ImagePositionPatient = (volume.affine @ [0, 0, k, 1])[:3].tolist()
        image.ImageOrientationPatient = [*axes[:, 0], *axes[:, 1]]
        image.PixelData = pixels.astype("<i2").tobytes()
        edit(image, k)
        files.append(folder / f"{k}.dcm")
        image.save_as(files[-1], enforce_file_format=True)
    return files


def is_segment_empty(segment: Any) -> bool:
    """Return whether Slicer's exporter takes a segment for empty: ``DICOMSegmentationExporter.isSegmentEmpty``."""
    representation = segment.GetRepresentation("Binary labelmap")
    scalars = representation.GetPointData().GetArray("ImageScalars")
    return scalars is None or scalars.GetValueRange() == (0, 0)


def export_segmentation(node: Any, series: Path, folder: Path) -> Any:
    """Return the DICOM segmentation that Slicer's exporter would write, with the converter that Slicer brings.

    Args:
        node: the segmentation, in a scene.
        series: folder of the DICOM images that it was made on.
        folder: for files.
    """
    import pydicom

    segments = node.GetSegmentation()
    ids = [each for each in segments.GetSegmentIDs() if not is_segment_empty(segments.GetSegment(each))]
    maps = [_label_map_file(node, each, folder) for each in ids]
    metadata = {
        "ContentCreatorName": "Slicer", "SeriesNumber": "101", "SeriesDescription": "Segmentation",
        "InstanceNumber": "1", "ClinicalTrialSeriesID": "1", "ClinicalTrialTimePointID": "1",
        "ClinicalTrialCoordinatingCenterName": "none",
        "segmentAttributes": [[_attributes(segments.GetSegment(each))] for each in ids],
    }  # fmt: skip
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    output = folder / "segmentation.dcm"
    _itkimage2segimage(series, maps, folder / "metadata.json", output)
    return pydicom.dcmread(output)


def _label_map_file(node: Any, segment_id: str, folder: Path) -> Path:
    """Write one segment as ``createLabelNodeFromSegment`` and ``createAndGetLabelMapsFromSegments`` do."""
    import slicer
    import vtk

    merged, ids = slicer.vtkOrientedImageData(), vtk.vtkStringArray()
    ids.InsertNextValue(segment_id)
    node.GenerateMergedLabelmapForAllSegments(merged, 0, None, ids)
    labels = node.GetScene().AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    assert slicer.vtkSlicerSegmentationsModuleLogic.CreateLabelmapVolumeFromOrientedImageData(merged, labels)
    labels.AddDefaultStorageNode()
    path = folder / f"{segment_id}.nrrd"
    labels.GetStorageNode().SetFileName(str(path))
    assert labels.GetStorageNode().WriteData(labels)
    return path


def _attributes(segment: Any) -> dict[str, Any]:
    import slicer

    entry = slicer.vtkSlicerTerminologyEntry()
    text = tag(segment, "TerminologyEntry")
    assert slicer.vtkSlicerTerminologiesModuleLogic.DeserializeTerminologyEntry(text, entry)
    return {
        "labelID": 1,
        "SegmentLabel": segment.GetName(),
        "SegmentDescription": entry.GetCategoryObject().GetCodeMeaning(),
        "SegmentAlgorithmType": tag(segment, "DICOM.SegmentAlgorithmType"),
        "SegmentAlgorithmName": tag(segment, "DICOM.SegmentAlgorithmName"),
        "recommendedDisplayRGBValue": [channel * 255 for channel in segment.GetColor()],
        "SegmentedPropertyCategoryCodeSequence": _code(entry.GetCategoryObject()),
        "SegmentedPropertyTypeCodeSequence": _code(entry.GetTypeObject()),
    }


def _code(found: Any) -> dict[str, str]:
    return {
        "CodeValue": found.GetCodeValue(),
        "CodingSchemeDesignator": found.GetCodingSchemeDesignator(),
        "CodeMeaning": found.GetCodeMeaning(),
    }


def _itkimage2segimage(series: Path, maps: Sequence[Path], metadata: Path, output: Path) -> None:
    files = distribution("dcmqi").files or []
    program = next(each for each in files if str(each.as_posix()).startswith("dcmqi/bin/itkimage2segimage"))
    done = subprocess.run(
        [
            str(program.locate()), "--inputDICOMDirectory", str(series), "--inputImageList", ",".join(map(str, maps)),
            "--inputMetadata", str(metadata), "--outputDICOM", str(output),
        ],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

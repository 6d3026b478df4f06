"""DICOM results as programs that are not ours read them, and what dciodvfy says of them."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from KDSegmentatorLib.dicom.series import DicomSeries
from KDSegmentatorLib.geometry import Volume, matrix, vector

Labels = npt.NDArray[np.uint8]


def complaints(path: Path) -> list[str]:
    """Return the errors and warnings of dciodvfy (Debian dicom3tools) about a file."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: apt-get install dicom3tools")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Warning"))]


def labels_by_highdicom(path: Path, series: DicomSeries) -> Labels:
    """Return segment numbers on the images, each put where its frame's own position says."""
    import highdicom

    segmentation = highdicom.seg.segread(path)
    volume = segmentation.get_volume(combine_segments=True)
    axes = volume.affine[:3, 2::-1] / volume.spacing[2::-1]
    read = Volume(
        np.ascontiguousarray(volume.array), vector(volume.spacing[2::-1]), vector(volume.affine[:3, 3]), matrix(axes)
    )
    return on_grid(read, series.volume)


def labels_by_frames(path: Path, series: DicomSeries) -> Labels:
    """Return segment numbers on the images, frame by frame, each at the image that has exactly its position."""
    import pydicom

    dataset = pydicom.dcmread(path)
    images = [tuple(header.ImagePositionPatient) for header in series.datasets]
    labels = np.zeros((len(images), dataset.Rows, dataset.Columns), np.uint8)
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0].get("SegmentIdentificationSequence")
    for frame, mask in zip(dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        number = (shared or frame.SegmentIdentificationSequence)[0].ReferencedSegmentNumber
        labels[images.index(tuple(frame.PlanePositionSequence[0].ImagePositionPatient))][mask != 0] = number
    return labels


def labels_by_dcmqi(path: Path, series: DicomSeries, folder: Path) -> Labels:
    """Return segment numbers on the images, by the converter that 3D Slicer uses."""
    _run("dcmqi", "segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd")
    return _merged({int(file.stem): file for file in folder.glob("*.nrrd")}, series)


def labels_by_plastimatch(path: Path, series: DicomSeries, images: Path, folder: Path, names: list[str]) -> Labels:
    """Return ROI numbers on the images, by a program of radiotherapy; it reads axial series."""
    _run("plastimatch", "plastimatch", "convert", "--input", path, "--referenced-ct", images,
         "--output-prefix", folder, "--prefix-format", "nrrd")  # fmt: skip
    return _merged({number: folder / f"{name}.nrrd" for number, name in enumerate(names, start=1)}, series)


def labels_by_contours(dataset: Any, series: DicomSeries) -> Labels:
    """Return ROI numbers on the images: which pixel centres lie inside the contours (even-odd rule)."""
    uids = [header.SOPInstanceUID for header in series.datasets]
    labels = np.zeros((len(uids), series.datasets[0].Rows, series.datasets[0].Columns), np.uint8)
    for roi in dataset.ROIContourSequence:
        for contour in roi.ContourSequence:
            number = uids.index(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)
            columns, rows = _pixels(contour, series.datasets[number])
            labels[number][_inside(columns, rows, labels.shape[1:])] = roi.ReferencedROINumber
    return labels


def on_grid(read: Volume, grid: Volume) -> Labels:
    """Return non-zero voxels of a volume at the voxels of a grid that lie in the same places; others must not be."""
    k, j, i = np.nonzero(read.voxels)
    places = np.linalg.inv(grid.affine) @ read.affine @ np.stack([i, j, k, np.ones(len(i))])
    columns, rows, slices = np.rint(places[:3]).astype(int)
    assert np.abs(places[:3] - (columns, rows, slices)).max(initial=0) < 1e-2
    labels = np.zeros(grid.voxels.shape, np.uint8)
    labels[slices, rows, columns] = read.voxels[k, j, i]
    return labels


def _merged(files: dict[int, Path], series: DicomSeries) -> Labels:
    import SimpleITK

    labels = np.zeros(series.volume.voxels.shape, np.uint8)
    for number, file in files.items():
        image = SimpleITK.ReadImage(str(file))
        direction = np.reshape(image.GetDirection(), (3, 3))
        read = Volume(SimpleITK.GetArrayFromImage(image), image.GetSpacing(), image.GetOrigin(), matrix(direction))
        labels[on_grid(read, series.volume) != 0] = number
    return labels


def _pixels(contour: Any, header: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return column and row of a contour's points on its image, after a check that they lie in its plane."""
    along_row, down_column = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
    points = np.reshape(contour.ContourData, (-1, 3)).astype(float) - np.asarray(header.ImagePositionPatient, float)
    assert len(points) == contour.NumberOfContourPoints
    assert np.abs(points @ np.cross(along_row, down_column)).max() < 1e-2
    height, width = (float(spacing) for spacing in header.PixelSpacing)
    return points @ along_row / width, points @ down_column / height


def _inside(columns: npt.NDArray[Any], rows: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, bool)
    for x0, y0, x1, y1 in zip(columns, rows, np.roll(columns, -1), np.roll(rows, -1), strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (x1 - x0) * (y - y0) / (y1 - y0))
    return inside


def _run(package: str, program: str, *arguments: str | Path) -> None:
    pytest.importorskip(package, reason=f"needs another reader: pip install {package}")
    files = distribution(package).files or []
    found = next(each for each in files if Path(str(each)).stem == program and "bin" in Path(str(each)).parts)
    done = subprocess.run(
        [str(found.locate()), *map(str, arguments)], capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""Measure size and time of the DICOM objects of a result, and write them into docs/dicom.md.

    python Testing/Benchmarks/dicom_results.py SCAN LABELS --pack Resources/Packs/brain-t1-x1_4

``SCAN`` and ``LABELS`` are image files on one grid, the labels those of the pack: a brain. The same labels, enlarged to
300 images of 512 x 512, stand for a large CT. Times are seconds of this process on the processor, reading not included.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from scipy import ndimage

from KDSegmentatorLib.dicom.labelled_images import Algorithm, LabelledImages, labelled_images
from KDSegmentatorLib.dicom.results import FORMS, DicomResults
from KDSegmentatorLib.dicom.series import DicomSeries
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.machine.hardware import processor_name
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.pack import open_pack

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dicom.md"
BEGIN, END = "<!-- figures: Testing/Benchmarks/dicom_results.py -->", "<!-- end of figures -->"
CT_SHAPE = (300, 512, 512)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, metavar="SCAN")
    parser.add_argument("labels", type=Path, metavar="LABELS")
    parser.add_argument("--pack", type=Path, required=True, help="folder of the pack that the labels are those of")
    options = parser.parse_args(arguments)
    manifest = open_pack(options.pack).manifest
    scan, labels = read_volume(options.scan), read_volume(options.labels)
    labels = labels.with_voxels(labels.voxels.astype(np.uint8))
    lines = ["| | " + " | ".join(FORMS) + " |", "|---" * (len(FORMS) + 1) + "|"]
    for name, image, values in (("brain", scan, labels), ("large CT", _enlarged(scan, 1), _enlarged(labels, 0))):
        images = labelled_images(values, manifest.labels, _algorithm(manifest), _series(image))
        columns, rows, count = image.size
        title = f"{name}: {count} images of {rows} x {columns}, {len(images.structures)} structures"
        lines.append(f"| {title} | " + " | ".join(_measured(images)) + " |")
        print(lines[-1], flush=True)
    _write("\n".join([*lines, "", f"{processor_name()}, Python {platform.python_version()}."]))


def _measured(images: LabelledImages) -> list[str]:
    """Return size and seconds of each form; the report's are without those of the segmentation that it refers to."""
    results = DicomResults(images, FORMS)
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            path = Path(folder) / f"{form}.dcm"
            begun = time.process_time()
            results.write(form, path)
            cells.append(f"{path.stat().st_size / 1e6:.2f} MB, {time.process_time() - begun:.1f} s")
    return cells


def _enlarged(volume: Volume, order: int) -> Volume:
    """Return a volume on the grid of a large CT."""
    factors = np.array(CT_SHAPE) / volume.voxels.shape
    spacing = tuple(float(step) for step in np.array(volume.spacing) / factors[::-1])
    voxels = ndimage.zoom(volume.voxels, factors, order=order, mode="nearest", grid_mode=True)
    return Volume(voxels, (spacing[0], spacing[1], spacing[2]), volume.origin, volume.direction)


def _series(volume: Volume) -> DicomSeries:
    """Return a volume as a series of images that was read."""
    axes = np.asarray(volume.direction)
    datasets = []
    for k in range(volume.size[2]):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"1.2.3.4.{k + 1}"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
        image.Modality, image.PatientName, image.PatientID, image.StudyDate = "CT", "Doe^Jane", "1", "20260101"
        image.Rows, image.Columns = volume.size[1], volume.size[0]
        image.PixelSpacing = [volume.spacing[1], volume.spacing[0]]
        image.ImagePositionPatient = (volume.affine @ [0, 0, k, 1])[:3].round(4).tolist()
        image.ImageOrientationPatient = [*axes[:, 0], *axes[:, 1]]
        datasets.append(image)
    return DicomSeries(
        volume=volume,
        datasets=tuple(datasets),
        uid="1.2.3.4",
        study_uid="1.2.3",
        modality="CT",
        description="",
        frame_of_reference_uid="1.2.3.5",
        sha256="",
    )


def _algorithm(manifest: Manifest) -> Algorithm:
    return Algorithm(
        pack_id=manifest.id,
        pack_version=manifest.version,
        pack_sha256="0" * 64,
        task=manifest.task,
        size=manifest.size,
        parameters={},
    )


def _write(figures: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    with atomic_output(PAGE) as unfinished:
        unfinished.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Run brain extraction on real heads, compare what has a reference, and draw every result.

    python Testing/Benchmarks/brain_heads.py PACK [PACK ...] --output pictures
        [--mricron /usr/share/mricron/templates] [--average mean_reg2mean.nii.gz] [--thick DICOM_FOLDER] [--template]

PACK is a pack's folder. The heads, none of which trained anything:

- ``--mricron``: ch2, one sharp head, with ch2bet, its brain by FSL's BET (Debian: ``apt-get install mricron-data``, or
  ``apt-get download mricron-data`` and ``dpkg-deb -x``). ch2 comes also stripped, in slices of 6 mm along each axis, in
  voxels of 0.7 mm, as its right half alone, and without what lies below the temporal lobes.
- ``--average``: the blurred mean head with a strong bias field that the package pydeface carries.
- ``--thick``: a folder with one DICOM series, for example of oblique slices.
- ``--template``: the skull-stripped MNI152 template of the package nilearn, where everything that is not 0 is brain.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from scipy import ndimage

from KDSegmentatorLib.analysis.overlay import write_overlay
from KDSegmentatorLib.engines.candidates import EngineRequest
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.geometry import Volume, matrix, vector
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.atomic import atomic_output
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.packs.pack import StudentPack, open_pack

THICK_MM = 6.0
FINE_MM = 0.7
COLUMNS = ("pack", "head", "dice", "reference_ml", "volume_ml", "pieces", "seconds")


@dataclass(frozen=True, kw_only=True)
class RealHead:
    """A head, and its brain (voxels not 0, same grid) if that is known."""

    name: str
    image: Volume
    brain: Volume | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all packs on all heads and return the exit code: 1 if an input is missing or refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+", type=Path, metavar="PACK", help="folder of a brain extraction pack")
    parser.add_argument("--output", type=Path, required=True, help="folder for pictures and heads.csv")
    parser.add_argument("--mricron", type=Path, help="folder with ch2.nii.gz and ch2bet.nii.gz")
    parser.add_argument("--average", type=Path, help="pydeface's mean_reg2mean.nii.gz")
    parser.add_argument("--thick", type=Path, help="folder of a DICOM series")
    parser.add_argument("--template", action="store_true", help="nilearn's MNI152 template")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one a physical core)")
    chosen = parser.parse_args(arguments)
    try:
        packs = [open_pack(folder) for folder in chosen.packs]
        chosen.output.mkdir(parents=True, exist_ok=True)
        heads = list(real_heads(chosen))
        rows = [row for pack in packs for row in run(pack, heads, chosen.output, chosen.threads)]
    except (KDSegmentatorError, OSError, RuntimeError) as error:
        print(f"brain_heads: {error}", file=sys.stderr)
        return 1
    with atomic_output(chosen.output / "heads.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return 0


def real_heads(chosen: argparse.Namespace) -> Iterator[RealHead]:
    """Give the heads that were asked for."""
    if chosen.mricron is not None:
        image = read_volume(chosen.mricron / "ch2.nii.gz")
        yield from variants(image, read_volume(chosen.mricron / "ch2bet.nii.gz"))
    if chosen.average is not None:
        yield RealHead(name="average head", image=read_volume(chosen.average))
    if chosen.thick is not None:
        yield RealHead(name="thick oblique slices", image=read_series(chosen.thick))
    if chosen.template:
        template = mni_template()
        yield RealHead(name="MNI152 template", image=template, brain=template)


def variants(image: Volume, brain: Volume) -> Iterator[RealHead]:
    """Give ch2 as it is, and as other scanners and people would have handed it over."""
    image, brain = image.reoriented("RAS"), brain.reoriented("RAS")
    image = image.with_voxels(image.voxels.astype(np.float32))
    brain = brain.with_voxels((brain.voxels > 0).astype(np.float32))
    yield RealHead(name="ch2", image=image, brain=brain)
    yield RealHead(name="ch2 stripped", image=image.with_voxels(image.voxels * brain.voxels), brain=brain)
    for axis, plane in enumerate(("axial", "coronal", "sagittal")):
        yield RealHead(
            name=f"ch2 {plane} {THICK_MM:g} mm", image=sliced(image, axis), brain=binary(sliced(brain, axis))
        )
    yield RealHead(name=f"ch2 {FINE_MM} mm", image=resampled(image, FINE_MM), brain=binary(resampled(brain, FINE_MM)))
    half = (slice(None), slice(None), slice(image.size[0] // 2, None))
    yield RealHead(name="ch2 right half", image=cropped(image, half), brain=cropped(brain, half))
    upper = (slice(image.size[2] // 3, None), slice(None), slice(None))
    yield RealHead(name="ch2 upper part", image=cropped(image, upper), brain=cropped(brain, upper))


def run(pack: StudentPack, heads: Sequence[RealHead], output: Path, threads: int | None) -> Iterator[dict[str, Any]]:
    """Segment the heads, draw and print each result, and give its row."""
    engine = choose_engine(pack, EngineRequest(threads=threads)).engine
    size = pack.manifest.size.replace("/", "_")
    for head in heads:
        start = time.perf_counter()
        result = segment(head.image, pack, engine, threads=threads).volume
        seconds = time.perf_counter() - start
        found = result.voxels > 0
        row: dict[str, Any] = {
            "pack": f"{pack.manifest.id} {pack.manifest.provenance.method}",
            "head": head.name,
            "dice": "",
            "reference_ml": "",
            "volume_ml": round(float(found.sum()) * result.voxel_volume / 1000, 1),
            "pieces": int(ndimage.label(found)[1]),
            "seconds": round(seconds, 2),
        }
        if head.brain is not None:
            reference = head.brain.voxels > 0
            both = float((reference & found).sum())
            row["dice"] = round(2 * both / max(float(reference.sum() + found.sum()), 1.0), 4)
            row["reference_ml"] = round(float(reference.sum()) * result.voxel_volume / 1000, 1)
        write_overlay(
            head.image,
            result,
            pack.manifest.labels,
            output / f"{size}-{head.name.replace(' ', '-')}.png",
            title=f"{pack.manifest.title} {pack.manifest.size}: {head.name}",
            modality="MR",
        )
        print(", ".join(f"{column} {row[column]}" for column in COLUMNS if row[column] != ""), flush=True)
        yield row


def read_series(folder: Path) -> Volume:
    """Read the only DICOM series of a folder."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    return Volume(
        SimpleITK.GetArrayFromImage(image),
        vector(image.GetSpacing()),
        vector(image.GetOrigin()),
        matrix(image.GetDirection()),
    )


def mni_template() -> Volume:
    """Return nilearn's MNI152 template, 1 mm."""
    from nilearn.datasets import load_mni152_template  # slow to import

    image: Any = load_mni152_template(resolution=1)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # NIfTI is RAS, a Volume LPS
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    voxels = np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0))
    return Volume(voxels, vector(spacing), vector(affine[:3, 3]), matrix(affine[:3, :3] / spacing))


def sliced(volume: Volume, axis: int) -> Volume:
    """Return the means of slices ``THICK_MM`` thick along an array axis of a 1 mm volume."""
    part = round(THICK_MM / volume.spacing[2 - axis])
    whole = volume.voxels.shape[axis] // part * part
    voxels = np.take(volume.voxels, np.arange(whole), axis=axis)
    split = (*voxels.shape[:axis], whole // part, part, *voxels.shape[axis + 1 :])
    spacing, corner = list(volume.spacing), np.zeros(4)
    spacing[2 - axis] *= part
    corner[2 - axis], corner[3] = (part - 1) / 2, 1
    origin = volume.affine @ corner
    return Volume(voxels.reshape(split).mean(axis=axis + 1), vector(spacing), vector(origin[:3]), volume.direction)


def resampled(volume: Volume, spacing: float) -> Volume:
    """Return the volume interpolated linearly in isotropic voxels."""
    shape = [round(n * length / spacing) for n, length in zip(volume.voxels.shape, volume.spacing[::-1], strict=True)]
    axes = np.meshgrid(*(np.arange(n) * spacing for n in shape), indexing="ij", sparse=True)
    indices = [axis / length for axis, length in zip(axes, volume.spacing[::-1], strict=True)]
    voxels = ndimage.map_coordinates(volume.voxels, np.broadcast_arrays(*indices), order=1, mode="nearest")
    return Volume(voxels, (spacing,) * 3, volume.origin, volume.direction)


def cropped(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    """Return a part of the volume where it is."""
    corner = np.array([*(part.start or 0 for part in reversed(box)), 1.0])
    origin = volume.affine @ corner
    return Volume(np.ascontiguousarray(volume.voxels[box]), volume.spacing, vector(origin[:3]), volume.direction)


def binary(volume: Volume) -> Volume:
    """Return where at least half of a voxel belongs to a mask."""
    return volume.with_voxels((volume.voxels >= 0.5).astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())

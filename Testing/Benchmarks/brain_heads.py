"""Run the brain packs on real heads, compare what has a reference, draw every result, and write the page about it.

    python Testing/Benchmarks/brain_heads.py PACK [PACK ...] --output pictures
        [--structures PACK] [--page docs/brain-heads.md]
        [--mricron /usr/share/mricron/templates] [--average mean_reg2mean.nii.gz] [--thick DICOM_FOLDER] [--template]
        [--dataset Dataset101_BrainOASIS --held-out CASE [CASE ...]]

PACK is the folder of a pack of brain extraction, that of ``--structures`` one of the structures in it, run after the
first PACK. The heads, none of which trained anything:

- ``--mricron``: ch2, one sharp head, with ch2bet, its brain by FSL's BET, and AAL's labels (Debian:
  ``apt-get install mricron-data``, or ``apt-get download mricron-data`` and ``dpkg-deb -x``). ch2 comes also stripped,
  in slices of 6 mm along each axis, in voxels of 0.7 mm, as its right half alone, and without what lies below the
  temporal lobes.
- ``--average``: the blurred mean head with a strong bias field that the package pydeface carries.
- ``--thick``: a folder with one DICOM series, for example of oblique slices.
- ``--template``: the skull-stripped MNI152 template of the package nilearn, where everything that is not 0 is brain.

``--held-out`` names cases of an nnU-Net raw dataset that did not train the structures either. Their segmentations are
compared with the reference twice: on the images as they are, and after brain extraction.
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
from brain_structures import (
    CHAIN_COLUMNS,
    HELD_OUT_COLUMNS,
    STRUCTURE_COLUMNS,
    Chain,
    HeldOutCase,
    compare_with_aal,
    compare_with_reference,
    run_chain,
)
from scipy import ndimage

from KDSegmentatorLib.analysis.overlap import dice
from KDSegmentatorLib.analysis.overlay import write_overlay
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import ImageReadError, KDSegmentatorError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import MM3_PER_ML, Volume, matrix, vector
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.machine.hardware import processor_name, usable_cores
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import StudentPack, open_pack

sys.path.append(str(Path(__file__).resolve().parents[2] / "demo"))  # the template is loaded as the demo does

from real_heads import load_template

THICK_MM = 6.0
FINE_MM = 0.7
COLUMNS = ("pack", "head", "outcome", "dice", "reference_ml", "volume_ml", "pieces", "seconds")


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
    parser.add_argument("--structures", type=Path, metavar="PACK", help="folder of a pack that is run after the first")
    parser.add_argument("--output", type=Path, required=True, help="folder for pictures and tables (CSV)")
    parser.add_argument("--page", type=Path, help="the tables as Markdown")
    parser.add_argument("--mricron", type=Path, help="folder with ch2.nii.gz and ch2bet.nii.gz")
    parser.add_argument("--average", type=Path, help="pydeface's mean_reg2mean.nii.gz")
    parser.add_argument("--thick", type=Path, help="folder of a DICOM series")
    parser.add_argument("--template", action="store_true", help="nilearn's MNI152 template")
    parser.add_argument("--dataset", type=Path, help="nnU-Net raw dataset of the cases of --held-out")
    parser.add_argument("--held-out", nargs="+", default=(), metavar="CASE", help="cases that trained no pack here")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one a physical core)")
    chosen = parser.parse_args(arguments)
    if chosen.held_out and (chosen.dataset is None or chosen.structures is None):
        parser.error("--held-out needs --dataset, where the cases are, and --structures, which is compared with them")
    try:
        packs = [open_pack(folder) for folder in chosen.packs]
        chosen.output.mkdir(parents=True, exist_ok=True)
        heads = list(chosen_heads(chosen))
        tables = []
        for table in all_tables(packs, heads, chosen):
            table.write(chosen.output / f"{table.name}.csv")
            tables.append(table)
        if chosen.page is not None:
            sources = [about for argument, about in SOURCES.items() if getattr(chosen, argument)]
            with atomic_output(chosen.page) as path:
                path.write_text(page(tables, packs, sources), encoding="utf-8")
    except (KDSegmentatorError, OSError, RuntimeError) as error:
        print(f"brain_heads: {error}", file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True)
class Table:
    """Rows of one kind."""

    name: str
    columns: Sequence[str]
    rows: Sequence[dict[str, Any]]

    def write(self, path: Path) -> None:
        """Write it as CSV."""
        with atomic_output(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self.columns)
            table.writeheader()
            table.writerows(self.rows)

    def markdown(self) -> str:
        """Return it as a Markdown table."""
        lines = ["| " + " | ".join(column.replace("_", " ") for column in self.columns) + " |"]
        lines.append("|" + " --- |" * len(self.columns))
        lines += ["| " + " | ".join(str(row[column]) for column in self.columns) + " |" for row in self.rows]
        return "\n".join(lines)


def all_tables(packs: Sequence[StudentPack], heads: Sequence[RealHead], chosen: argparse.Namespace) -> Iterator[Table]:
    """Run all packs on all heads, then the chain, and give each table when it is complete."""
    yield Table("heads", COLUMNS, [row for pack in packs for row in run(pack, heads, chosen)])
    if chosen.structures is not None:
        yield from structure_tables(packs[0], heads, chosen)


def structure_tables(extraction: StudentPack, heads: Sequence[RealHead], chosen: argparse.Namespace) -> Iterator[Table]:
    """Run the chain on all heads, and compare ch2 with AAL if it is there and was not refused."""
    chain = Chain(extraction=extraction, structures=open_pack(chosen.structures), threads=chosen.threads)
    aal = None if chosen.mricron is None else read_volume(chosen.mricron / "aal.nii.gz").reoriented("RAS")
    rows, ch2 = [], None
    for row, segmentation in run_chain(chain, [(head.name, head.image) for head in heads], chosen.output):
        rows.append(row)
        if row["head"] == "ch2":
            ch2 = segmentation
    yield Table("chain", CHAIN_COLUMNS, rows)
    if ch2 is not None and aal is not None:
        yield Table("aal", STRUCTURE_COLUMNS, list(compare_with_aal(ch2, chain.structures.manifest.labels, aal)))
    elif aal is not None:
        print("ch2 was refused and is not compared with AAL", flush=True)
    if chosen.held_out:
        cases = [HeldOutCase.read(chosen.dataset, name) for name in chosen.held_out]
        yield Table("held-out", HELD_OUT_COLUMNS, list(compare_with_reference(chain, cases)))


SOURCES = {
    "mricron": "ch2 is the head of Debian's mricron-data. Its reference is ch2bet, which is FSL's BET, not a person's "
    "drawing. What counts as brain in the training data (`CLOSING_MM` in `distillation/synthesis/label_maps.py`) was "
    "compared with ch2bet before training: Dice against it is not fully independent.",
    "average": "The average head is that of the package pydeface, blurred and with a strong bias field.",
    "thick": "The thick oblique slices are a clinical series of 5 mm.",
    "template": "The template is nilearn's; everything in it that is not 0 is brain.",
}
"""What the page says about the heads, by the argument that asks for them."""

SECTIONS = {
    "heads": """## Brain extraction

*Pieces* are connected pieces of the mask; *seconds* those of a call once the network is loaded.""",
    "chain": """## Structures, in what brain extraction found

45 structures are looked for. *Seconds* are those of both stages and of loading both networks; *warnings* are what the
user reads.""",
    "aal": """## Deep structures of ch2 against AAL

AAL was drawn on ch2 itself, by another protocol than that of the training data: Dice against it is no accuracy, but a
wrong side, a wrong place or a lost structure would show. *Centre mm* is the distance between both centroids.
Tzourio-Mazoyer et al., NeuroImage 15 (2002).""",
    "held-out": """## Held-out scans, before and after brain extraction

Mean Dice over the structures that the reference of a scan has, the same ones both ways, in float32; a structure that is
found where the reference has none does not count here, though it counts as 0 in the pack's evaluation. These scans come
without their skulls: *alone* is the pack of structures on the image as it is, run as it was evaluated; *after
extraction* is the chain that a user runs, there in the precision that the machine takes by itself. *Extraction* is the
Dice of the extracted brain against everything in the image that is not 0. Means are over the scans that were not
refused.""",
}


def page(tables: Sequence[Table], packs: Sequence[StudentPack], sources: Sequence[str]) -> str:
    """Return the page: what was run on what, and its tables."""
    about = ", ".join(f"{pack.manifest.id} {pack.manifest.version}" for pack in packs)
    parts = [
        "# The brain packs on real heads",
        f"Written by `Testing/Benchmarks/brain_heads.py` ({about}); do not edit. None of these heads trained anything.",
        "\n".join(f"- {source}" for source in sources),
        *(f"{SECTIONS[table.name]}\n\n{table.markdown()}" for table in tables),
        f"Seconds on {processor_name()}, {usable_cores()} cores.",
    ]
    return "\n\n".join(parts) + "\n"


def chosen_heads(chosen: argparse.Namespace) -> Iterator[RealHead]:
    """Give the heads that were asked for."""
    if chosen.mricron is not None:
        image = read_volume(chosen.mricron / "ch2.nii.gz")
        yield from variants(image, read_volume(chosen.mricron / "ch2bet.nii.gz"))
    if chosen.average is not None:
        yield RealHead(name="average head", image=read_volume(chosen.average))
    if chosen.thick is not None:
        yield RealHead(name="thick oblique slices", image=read_series(chosen.thick))
    if chosen.template:
        template = load_template()
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


def run(pack: StudentPack, heads: Sequence[RealHead], chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Segment the heads, draw and print each result, and give its row."""
    output, threads = chosen.output, chosen.threads
    engine = choose_engine(pack, RunOptions(threads=threads)).engine
    size = pack.manifest.size.replace("/", "_")
    for head in heads:
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        row |= {"pack": f"{pack.manifest.id} {pack.manifest.provenance.method}", "head": head.name}
        start = time.perf_counter()
        try:
            result = segment(head.image, pack, engine, RunOptions(threads=threads)).volume
        except UnsuitableVolumeError as error:
            print(f"{head.name} is refused: {error}", flush=True)
            yield row | {"outcome": f"refused: {error}"}
            continue
        seconds = time.perf_counter() - start
        found = result.voxels > 0
        row |= {
            "outcome": "segmented",
            "volume_ml": round(np.count_nonzero(found) * result.voxel_volume / MM3_PER_ML, 1),
            "pieces": int(ndimage.label(found)[1]),
            "seconds": round(seconds, 2),
        }
        if head.brain is not None:
            reference = head.brain.voxels > 0
            row["dice"] = round(dice(reference, found, [1])[1], 4)
            row["reference_ml"] = round(np.count_nonzero(reference) * result.voxel_volume / MM3_PER_ML, 1)
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
    """Read the only DICOM series of a folder.

    Raises:
        ImageReadError: it holds none, or several.
    """
    reader = SimpleITK.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise ImageReadError(
            f"{folder} holds {len(series)} DICOM series ({', '.join(series) or 'none'}); give a folder with exactly one"
        )
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    image = reader.Execute()
    return Volume(
        SimpleITK.GetArrayFromImage(image),
        vector(image.GetSpacing()),
        vector(image.GetOrigin()),
        matrix(image.GetDirection()),
    )


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

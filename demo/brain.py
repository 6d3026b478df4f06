"""Segment the brain structures of two average heads, from the plain scan to labels, volumes and a picture.

One call runs two packs one after the other: brain extraction, and the structures in what it found. The heads are the
average of whole heads that the package pydeface ships (skull, scalp, a strong bias field), and the MNI152 template of
nilearn (the average of 152 brains, already without its skull). Nothing is downloaded.

    .venv/bin/python demo/brain.py [--size x1/4] [--output demo-output]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from printed_command import kdseg_command
from real_heads import load_average_head, load_template

from KDSegmentatorLib import Segmentation, Segmenter, Volume, write_volume
from KDSegmentatorLib.analysis.overlay import write_overlay
from KDSegmentatorLib.analysis.statistics import LabelStatistics, label_statistics, write_statistics
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.io.files import atomic_output

HEADS: dict[str, tuple[str, Callable[[], Volume]]] = {
    "head": ("average of whole heads", load_average_head),
    "mni152": ("MNI152 template", load_template),
}
"""Name of the files: what it is, and where it comes from."""

SHOWN = ("Left hippocampus", "Right hippocampus", "Left thalamus", "Right thalamus", "Brain stem")


@dataclass(frozen=True, kw_only=True)
class SegmentedHead:
    """One head: its scan, what was found, and in numbers."""

    name: str
    title: str
    scan: Volume
    segmentation: Segmentation
    statistics: tuple[LabelStatistics, ...]

    @property
    def volume_ml(self) -> float:
        """Volume of all structures together."""
        return sum(row.volume_ml for row in self.statistics)

    @property
    def side_distance_mm(self) -> float | None:
        """How far the left hippocampus lies to the left of the right one; None if one of them was not found."""
        left = self.structure("Left hippocampus").centroid
        right = self.structure("Right hippocampus").centroid
        return None if left is None or right is None else left[0] - right[0]  # L is positive

    def structure(self, name: str) -> LabelStatistics:
        """Return one structure by its name.

        Raises:
            KeyError: there is none of that name.
        """
        return {row.name: row for row in self.statistics}[name]


def segment_heads(segmenter: Segmenter) -> list[SegmentedHead]:
    """Segment all heads."""
    heads = []
    for name, (title, load) in HEADS.items():
        scan = load()
        segmentation = segmenter(scan)
        statistics = label_statistics(segmentation.volume, segmentation.labels, scan)
        heads.append(SegmentedHead(name=name, title=title, scan=scan, segmentation=segmentation, statistics=statistics))
    return heads


def write_results(heads: Sequence[SegmentedHead], folder: Path) -> None:
    """Write scans, labels, volumes, pictures and ``runs.json`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for head in heads:
        record, labels = head.segmentation.record, head.segmentation.labels
        write_volume(head.scan, folder / f"{head.name}.nii.gz")
        write_volume(head.segmentation.volume, folder / f"{head.name}-labels.nii.gz")
        write_statistics(head.statistics, folder / f"{head.name}-volumes.csv")
        title = f"{head.title} · {record.pack_id} {record.pack_version}"
        picture = folder / f"{head.name}-overlay.png"
        write_overlay(head.scan, head.segmentation.volume, labels, picture, title=title, modality="MR")
    runs = {head.name: dataclasses.asdict(head.segmentation.record) for head in heads}
    with atomic_output(folder / "runs.json") as unfinished:
        unfinished.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")


def summary(heads: Sequence[SegmentedHead], folder: Path) -> str:
    """Return what came out."""
    record = heads[0].segmentation.record
    chain = f"{record.pack_id} {record.pack_version}"
    if record.region is not None:
        chain = f"{record.region.pack_id} {record.region.pack_version}, then {chain}"
    lines = [f"{chain} on {record.engine}, {record.precision}"]
    for head in heads:
        seconds = head.segmentation.record.seconds
        found = sum(row.voxels > 0 for row in head.statistics)
        lines += [
            "",
            f"{head.title}: {found} of {len(head.statistics)} structures, {head.volume_ml:.0f} ml together, "
            f"{seconds['total']:.1f} s, of it brain extraction {seconds.get('region', 0.0):.1f} s",
            "  " + ", ".join(shown(head.structure(name)) for name in SHOWN),
        ]
        if head.side_distance_mm is not None:
            lines.append(f"  the left hippocampus lies {head.side_distance_mm:.0f} mm to the left of the right one")
        lines += [f"  warning: {warning.sentence}" for warning in head.segmentation.record.warnings]
    lines += [
        "",
        f"Look at {' and '.join(str(folder / f'{head.name}-overlay.png') for head in heads)}; the same from the "
        "command line:",
        f"  {kdseg_command(folder / f'{heads[0].name}.nii.gz', record)}",
    ]
    return "\n".join(lines)


def shown(row: LabelStatistics) -> str:
    """Return the volume of a structure, or that it was not found."""
    return f"{row.name.lower()} {f'{row.volume_ml:.2f} ml' if row.voxels else 'not found'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description="Segment the brain structures of two average heads.")
    parser.add_argument("--size", default="x1/2", help="size of the network (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        heads = segment_heads(Segmenter("brain-t1", chosen.size))
        write_results(heads, chosen.output)
    except KDSegmentatorError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(summary(heads, chosen.output))
    print(f"All in {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

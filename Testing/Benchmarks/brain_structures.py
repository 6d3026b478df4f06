"""The chain of both brain packs on real heads: how it agrees with labels that others drew, and what it warns of."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from KDSegmentatorLib.analysis.overlap import dice
from KDSegmentatorLib.analysis.overlay import write_overlay
from KDSegmentatorLib.analysis.statistics import LabelStatistics, label_statistics
from KDSegmentatorLib.engines.candidates import EngineRequest
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.chain import find_region
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.packs.manifest import Label
from KDSegmentatorLib.packs.pack import StudentPack

AAL: dict[str, tuple[int, int]] = {
    "hippocampus": (37, 38),
    "amygdala": (41, 42),
    "caudate": (71, 72),
    "putamen": (73, 74),
    "pallidum": (75, 76),
    "thalamus": (77, 78),
}
"""Structures that AAL has as well: its values on the left and right (Tzourio-Mazoyer et al., NeuroImage 15, 2002). They
were drawn on ch2 by another protocol, every second slice, smoother than the cortical ones."""

STRUCTURE_COLUMNS = ("structure", "dice", "centre_mm", "reference_ml", "volume_ml")
CHAIN_COLUMNS = ("head", "outcome", "structures", "volume_ml", "seconds", "warnings")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Both packs with their engines."""

    extraction: StudentPack
    structures: StudentPack
    threads: int | None

    def run(self, image: Volume) -> Segmentation:
        """Segment one head.

        Raises:
            KDSegmentatorError: see :func:`KDSegmentatorLib.inference.pipeline.segment`.
        """
        first, second = (
            choose_engine(pack, EngineRequest(threads=self.threads)).engine
            for pack in (self.extraction, self.structures)
        )
        region = find_region(image, self.extraction, first, threads=self.threads)
        return segment(image, self.structures, second, region=region, threads=self.threads)


def run_chain(chain: Chain, heads: Sequence[tuple[str, Volume]], output: Path) -> Iterator[dict[str, Any]]:
    """Segment the heads, draw and print each result, and give its row; a head that is refused gives the reason."""
    manifest = chain.structures.manifest
    for name, image in heads:
        start = time.perf_counter()
        row: dict[str, Any] = dict.fromkeys(CHAIN_COLUMNS, "") | {"head": name}
        try:
            result = chain.run(image)
        except UnsuitableVolumeError as error:
            row["outcome"] = f"refused: {error}"
        else:
            found = label_statistics(result.volume, result.labels, image)
            row |= {
                "outcome": "segmented",
                "structures": sum(each.voxels > 0 for each in found),
                "volume_ml": round(sum(each.volume_ml for each in found), 1),
                "seconds": round(time.perf_counter() - start, 2),
                "warnings": " ".join(warning.sentence for warning in result.record.warnings),
            }
            write_overlay(
                image,
                result.volume,
                manifest.labels,
                output / f"structures-{name.replace(' ', '-')}.png",
                title=f"{manifest.title} {manifest.size}: {name}",
                modality="MR",
            )
        print(", ".join(f"{column} {value}" for column, value in row.items() if value != ""), flush=True)
        yield row


def compare_with_aal(chain: Chain, image: Volume, aal: Volume) -> Iterator[dict[str, Any]]:
    """Segment ch2 and compare the deep structures with AAL's, on the same grid.

    Gives:
        Dice, distance between the centroids in mm, and both volumes in ml, structure by structure.
    """
    result = chain.run(image)
    by_name = {label.name: label.value for label in chain.structures.manifest.labels}
    for structure, values in AAL.items():
        for side, value in zip(("Left", "Right"), values, strict=True):
            name = f"{side} {structure}"
            reference, found = aal.voxels == value, result.volume.voxels == by_name[name]
            labels = (Label(value=1, name=name, color=(0, 0, 0), terminology=result.labels[0].terminology),)
            ours, theirs = (
                label_statistics(image.with_voxels(mask.astype(np.uint8)), labels, image)[0]
                for mask in (found, reference)
            )
            row = {
                "structure": name,
                "dice": round(dice(reference.astype(np.uint8), found.astype(np.uint8), [1])[1], 3),
                "centre_mm": _distance(ours, theirs),
                "reference_ml": round(theirs.volume_ml, 2),
                "volume_ml": round(ours.volume_ml, 2),
            }
            print(", ".join(f"{column} {value}" for column, value in row.items()), flush=True)
            yield row


def _distance(first: LabelStatistics, second: LabelStatistics) -> float | str:
    if first.centroid is None or second.centroid is None:
        return ""
    return round(float(np.linalg.norm(np.subtract(first.centroid, second.centroid))), 1)

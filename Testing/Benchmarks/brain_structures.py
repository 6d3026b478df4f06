"""The chain of both brain packs on real heads: how it agrees with labels that others drew, and what it warns of."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.analysis.overlap import dice
from KDSegmentatorLib.analysis.overlay import write_overlay
from KDSegmentatorLib.analysis.statistics import LabelStatistics, label_statistics
from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import GeometryError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.options import AUTOMATIC, RunOptions
from KDSegmentatorLib.packs.manifest import Label
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.segmenter import find_region

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
HELD_OUT_SCORES = ("extraction", "alone", "after_extraction", "difference")
HELD_OUT_COLUMNS = ("case", "outcome", *HELD_OUT_SCORES)
CHAIN_COLUMNS = ("head", "outcome", "structures", "volume_ml", "seconds", "warnings")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Both packs.

    Attributes:
        extraction: finds the brain.
        structures: finds the structures in it.
        threads: CPU threads; None takes what the machine allows.
    """

    extraction: StudentPack
    structures: StudentPack
    threads: int | None

    def run(self, image: Volume) -> Segmentation:
        """Segment one head as a user does, networks loaded for it in the precision that this machine takes by itself.

        Raises:
            KDSegmentatorError: see :func:`KDSegmentatorLib.inference.pipeline.segment`.
        """
        first, second = self.engines()
        region = find_region(image, self.extraction, first, RunOptions(threads=self.threads))
        return segment(image, self.structures, second, RunOptions(threads=self.threads), region=region)

    def both_ways(self, image: Volume, engines: tuple[Engine, Engine]) -> tuple[npt.NDArray[np.bool_], Volume, Volume]:
        """Segment a scan without its skull.

        Args:
            image: the scan.
            engines: of both packs.

        Returns:
            Which voxels were found to be brain, the structures in the image as it is, and those in that brain.

        Raises:
            KDSegmentatorError: see :func:`KDSegmentatorLib.inference.pipeline.segment`.
        """
        first, second = engines
        region = find_region(image, self.extraction, first, RunOptions(threads=self.threads))
        alone = segment(image, self.structures, second, RunOptions(region="given", threads=self.threads))
        chained = segment(image, self.structures, second, RunOptions(threads=self.threads), region=region)
        return region.mask, alone.volume, chained.volume

    def engines(self, precision: str = AUTOMATIC) -> tuple[Engine, Engine]:
        """Load the networks of both packs.

        Raises:
            KDSegmentatorError: see :func:`KDSegmentatorLib.engines.selection.choose_engine`.
        """
        request = RunOptions(precision=precision, threads=self.threads)
        first, second = (choose_engine(pack, request).engine for pack in (self.extraction, self.structures))
        return first, second


@dataclass(frozen=True, kw_only=True)
class HeldOutCase:
    """A scan without its skull and its reference segmentation.

    Raises:
        GeometryError: they are not on one grid.
    """

    name: str
    image: Volume
    reference: Volume

    def __post_init__(self) -> None:
        if not self.image.same_grid(self.reference):
            raise GeometryError(
                f"{self.name}: the reference (size {self.reference.size}, spacing {self.reference.spacing} mm) is not "
                f"on the grid of the image (size {self.image.size}, spacing {self.image.spacing} mm); give a dataset "
                "whose labelsTr fits its imagesTr"
            )

    @classmethod
    def read(cls, dataset: Path, name: str) -> HeldOutCase:
        """Read a case of an nnU-Net raw dataset.

        Raises:
            ImageReadError: a file is missing or damaged.
            GeometryError: image and reference are not on one grid.
        """
        image = read_volume(dataset / "imagesTr" / f"{name}_0000.nii.gz")
        return cls(name=name, image=image, reference=read_volume(dataset / "labelsTr" / f"{name}.nii.gz"))


def compare_with_reference(chain: Chain, cases: Sequence[HeldOutCase]) -> Iterator[dict[str, Any]]:
    """Segment scans without skulls alone and after brain extraction, and compare both with the reference.

    Both ways run in float32, as packs are evaluated: the difference is to be that of the brain mask alone.

    Gives:
        A row a case, with Dice averaged over the structures that its reference has, the same ones both ways; for a scan
        that is refused the reason. Then one with the means over the scans that were segmented, if there are any.

    Raises:
        KDSegmentatorError: a network cannot be loaded or run.
    """
    labels = chain.structures.manifest.labels
    engines = chain.engines("float32")
    rows = []
    for case in cases:
        in_scan = [label.value for label in labels if (case.reference.voxels == label.value).any()]
        try:
            extracted, alone, chained = chain.both_ways(case.image, engines)
        except UnsuitableVolumeError as error:
            yield _rounded(dict.fromkeys(HELD_OUT_COLUMNS, "") | {"case": case.name, "outcome": f"refused: {error}"})
            continue
        row: dict[str, Any] = {"case": case.name, "outcome": "segmented"}
        row["extraction"] = dice(case.image.voxels != 0, extracted, [1])[1]
        for name, result in (("alone", alone), ("after_extraction", chained)):
            scores = dice(case.reference.voxels, result.voxels, in_scan)
            row[name] = float(np.mean([*scores.values()]))
        row["difference"] = row["after_extraction"] - row["alone"]
        rows.append(row)
        yield _rounded(row)
    if rows:
        means = {column: float(np.mean([row[column] for row in rows])) for column in HELD_OUT_SCORES}
        yield _rounded({"case": "mean", "outcome": f"{len(rows)} of {len(cases)} segmented", **means})


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    rounded = {name: value if isinstance(value, str) else round(value, 4) for name, value in row.items()}
    print(", ".join(f"{name} {value}" for name, value in rounded.items() if value != ""), flush=True)
    return rounded


def run_chain(
    chain: Chain, heads: Sequence[tuple[str, Volume]], output: Path
) -> Iterator[tuple[dict[str, Any], Volume | None]]:
    """Segment the heads, draw and print each result.

    Gives:
        The row of the head and its segmentation; if it was refused, the reason in the row, and None.
    """
    manifest = chain.structures.manifest
    for name, image in heads:
        start = time.perf_counter()
        segmentation = None
        row: dict[str, Any] = dict.fromkeys(CHAIN_COLUMNS, "") | {"head": name}
        try:
            result = chain.run(image)
        except UnsuitableVolumeError as error:
            row["outcome"] = f"refused: {error}"
        else:
            segmentation = result.volume
            found = label_statistics(segmentation, result.labels, image)
            row |= {
                "outcome": "segmented",
                "structures": sum(each.voxels > 0 for each in found),
                "volume_ml": round(sum(each.volume_ml for each in found), 1),
                "seconds": round(time.perf_counter() - start, 2),
                "warnings": _in_short([warning.sentence for warning in result.record.warnings]),
            }
            write_overlay(
                image,
                segmentation,
                manifest.labels,
                output / f"structures-{name.replace(' ', '-')}.png",
                title=f"{manifest.title} {manifest.size}: {name}",
                modality="MR",
            )
        print(", ".join(f"{column} {value}" for column, value in row.items() if value != ""), flush=True)
        yield row, segmentation


def _in_short(sentences: Sequence[str]) -> str:
    """Return the first two warnings, the gravest of which come first, and how many more there are."""
    more = f" And {len(sentences) - 2} more." if len(sentences) > 2 else ""
    return " ".join(sentences[:2]) + more


def compare_with_aal(segmentation: Volume, labels: Sequence[Label], aal: Volume) -> Iterator[dict[str, Any]]:
    """Compare the deep structures of ch2 with AAL's; those that the pack does not have are named and left out.

    Args:
        segmentation: ch2's, (z, y, x) label values.
        labels: what they mean.
        aal: AAL's values on the same grid.

    Gives:
        Dice, distance between the centroids in mm, and both volumes in ml, structure by structure.

    Raises:
        GeometryError: the grids differ.
    """
    if not segmentation.same_grid(aal):
        raise GeometryError(
            f"AAL (size {aal.size}, spacing {aal.spacing} mm) is not on the grid of ch2 (size {segmentation.size}, "
            f"spacing {segmentation.spacing} mm); take aal.nii.gz and ch2.nii.gz from the same mricron-data"
        )
    by_name = {label.name: label for label in labels}
    for structure, values in AAL.items():
        for side, value in zip(("Left", "Right"), values, strict=True):
            label = by_name.get(f"{side} {structure}")
            if label is None:
                print(f"{side} {structure}: the pack does not have it; not compared with AAL", flush=True)
                continue
            (ours,) = label_statistics(segmentation, [label], segmentation)
            (theirs,) = label_statistics(aal, [replace(label, value=value)], aal)
            row = {
                "structure": label.name,
                "dice": round(dice(aal.voxels == value, segmentation.voxels == label.value, [1])[1], 3),
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

"""Two segmentations side by side: teacher and student, two students, or a result and a reference."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.analysis.disagreement import DisagreementRegion, largest_disagreement
from KDSegmentatorLib.analysis.labels import TITLES, LabelPair, each_label, label_map, on_same_grid
from KDSegmentatorLib.analysis.overlap import defined
from KDSegmentatorLib.analysis.statistics import as_text
from KDSegmentatorLib.analysis.surface_distance import (
    ABSENT,
    DEFAULT_TOLERANCE_MM,
    Agreement,
    agreement,
    check_tolerance,
)
from KDSegmentatorLib.errors import UnsuitableVolumeError
from KDSegmentatorLib.geometry import MM3_PER_ML, Volume
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.manifest import SurfaceKind


@dataclass(frozen=True, kw_only=True)
class LabelComparison:
    """One structure in two segmentations.

    Attributes:
        value: label value.
        name: the structure.
        dice: see :class:`~KDSegmentatorLib.analysis.surface_distance.Agreement`, as for ``nsd`` and ``hd95_mm``.
        nsd: surface Dice.
        hd95_mm: 95 % Hausdorff distance in mm.
        first_ml: volume in the first segmentation in millilitres.
        second_ml: in the second.
        largest_disagreement: None if both have the same voxels.
    """

    value: int
    name: str
    dice: float
    nsd: float
    hd95_mm: float
    first_ml: float
    second_ml: float
    largest_disagreement: DisagreementRegion | None

    @property
    def difference_ml(self) -> float:
        """Volume in the second segmentation minus that in the first."""
        return self.second_ml - self.first_ml

    @property
    def difference_percent(self) -> float:
        """The difference in percent of the volume in the first segmentation; nan if that has none."""
        return 100 * self.difference_ml / self.first_ml if self.first_ml else math.nan


@dataclass(frozen=True, kw_only=True)
class MeanAgreement:
    """Means over the structures that are in at least one of two segmentations; nan if there are none.

    Attributes:
        dice: mean Dice.
        nsd: mean surface Dice.
        hd95_mm: mean HD95; infinite if a structure is in one segmentation only.
        structures: how many there are.
    """

    dice: float
    nsd: float
    hd95_mm: float
    structures: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How two segmentations compare.

    Attributes:
        labels: the structures, in the order that they were asked for.
        unnamed: label values, ascending, that a segmentation holds and that were not asked for.
        tolerance_mm: of NSD.
        surface: what NSD took for the surface.
    """

    labels: tuple[LabelComparison, ...]
    unnamed: tuple[int, ...]
    tolerance_mm: float
    surface: SurfaceKind

    @property
    def mean(self) -> MeanAgreement:
        """The means; structures that are in neither segmentation have no scores and are left out."""
        dice, _ = defined(label.dice for label in self.labels)
        nsd, _ = defined(label.nsd for label in self.labels)
        hd95, _ = defined(label.hd95_mm for label in self.labels)
        return MeanAgreement(dice=_mean(dice), nsd=_mean(nsd), hd95_mm=_mean(hd95), structures=len(dice))


def compare(
    first: Volume,
    second: Volume,
    names: Mapping[int, str] | None = None,
    *,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    surface: SurfaceKind = "voxels",
    titles: tuple[str, str] = TITLES,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelCheck | None = None,
) -> Comparison:
    """Compare two segmentations label by label.

    Nothing is resampled: a comparison of resampled labels would partly be one of the resampling.

    Args:
        first: label values, (z, y, x).
        second: label values on the same grid, in any of its axis orders.
        names: label value (> 0) to the structure's name; None takes all values that one of them holds.
        tolerance_mm: of NSD, see :func:`~KDSegmentatorLib.analysis.surface_distance.surface_agreement`.
        surface: what NSD takes for the surface.
        titles: what to call the segmentations in an error message.
        threads: labels to work on at once; None takes all cores that this process may use.
        progress: called with the stage ``compare``, one step a label.
        cancel: asked again and again; labels that were begun are finished.

    Raises:
        CancelledError: the caller cancelled.
        GeometryError: the two volumes do not share a grid; the message has both.
        InvalidSettingsError: a value is not a foreground label, or the tolerance is negative or not finite.
        UnsuitableVolumeError: one of the volumes is not a label map, or both are empty and no label was asked for.
    """
    check_tolerance(tolerance_mm)
    second = on_same_grid(first, second, titles)
    maps = label_map(first, titles[0]), label_map(second, titles[1])
    present = sorted(maps[0].boxes.keys() | maps[1].boxes.keys())
    if names is None:
        if not present:
            raise UnsuitableVolumeError(
                f"neither {titles[0]} nor {titles[1]} holds a label: all their voxels are 0, and there is nothing to "
                "compare; check that they are the right files"
            )
        names = {value: f"label {value}" for value in present}

    def work(pair: LabelPair) -> tuple[Agreement, DisagreementRegion | None]:
        scores = agreement(pair, tolerance_mm=tolerance_mm, surface=surface)
        return scores, largest_disagreement(pair, first)

    found = each_label(*maps, first.spacing, names, work, threads=threads, progress=progress, cancel=cancel)
    ml = first.voxel_volume / MM3_PER_ML
    labels = []
    for value, name in names.items():
        scores, region = found.get(value, (ABSENT, None))
        labels.append(
            LabelComparison(
                value=value,
                name=name,
                dice=scores.dice,
                nsd=scores.nsd,
                hd95_mm=scores.hd95_mm,
                first_ml=scores.first_voxels * ml,
                second_ml=scores.second_voxels * ml,
                largest_disagreement=region,
            )
        )
    return Comparison(
        labels=tuple(labels),
        unnamed=tuple(value for value in present if value not in names),
        tolerance_mm=tolerance_mm,
        surface=surface,
    )


def write_comparison(comparison: Comparison, path: Path | str) -> None:
    """Write a comparison as a CSV table (UTF-8, comma, one header line); an existing file is replaced.

    Undefined scores are empty cells, an infinite HD95 is ``inf``; each line has the tolerance and the surface of its
    NSD.

    Raises:
        ImageWriteError: the file could not be written; nothing was left behind.
    """
    with atomic_output(Path(path)) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COMPARISON_COLUMNS)
        table.writerows(comparison_cells(comparison, label) for label in comparison.labels)


COMPARISON_COLUMNS = (
    "label_value",
    "label_name",
    "dice",
    "nsd",
    "nsd_tolerance_mm",
    "nsd_surface",
    "hd95_mm",
    "first_ml",
    "second_ml",
    "difference_ml",
    "difference_percent",
    "largest_disagreement_ml",
    "largest_disagreement_i",
    "largest_disagreement_j",
    "largest_disagreement_k",
    "largest_disagreement_L_mm",
    "largest_disagreement_P_mm",
    "largest_disagreement_S_mm",
)
"""The columns of a comparison's table."""


def comparison_cells(comparison: Comparison, label: LabelComparison) -> list[str]:
    """Return what the table says about a structure, in the order of the columns."""
    region = label.largest_disagreement
    place: Sequence[str] = ("",) * 7
    if region is not None:
        place = (_number(region.volume_ml), *map(str, region.index), *map(_number, region.position))
    return [
        str(label.value),
        as_text(label.name),
        _number(label.dice),
        _number(label.nsd),
        _number(comparison.tolerance_mm),
        comparison.surface,
        _number(label.hd95_mm),
        _number(label.first_ml),
        _number(label.second_ml),
        _number(label.difference_ml),
        _number(label.difference_percent),
        *place,
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores) if scores else math.nan

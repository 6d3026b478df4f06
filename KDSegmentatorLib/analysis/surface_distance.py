"""How well two segmentations agree, label by label: Dice, surface Dice (NSD) and 95 % Hausdorff distance (HD95)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.analysis.labels import TITLES, LabelPair, each_label, label_map, on_same_grid
from KDSegmentatorLib.analysis.overlap import dice_of_counts
from KDSegmentatorLib.analysis.surface_elements import SurfaceElements, edge_voxels, nearest_distances, patches
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.geometry import Vector, Volume
from KDSegmentatorLib.packs.manifest import SurfaceKind

DEFAULT_TOLERANCE_MM = 1.0
"""How far apart two surfaces may be to count as the same in NSD."""

_PERCENTILE = float(np.float32(0.95))  # so rounded by torch.quantile, which MONAI calls


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two segmentations agree on one label.

    Attributes:
        first_voxels: voxels of the label in the first segmentation.
        second_voxels: in the second.
        dice: 2 |A and B| / (|A| + |B|) over voxels; nan if the label is in neither, 0 if it is in one of them.
        nsd: share of both surfaces that lies within the tolerance of the other one; nan and 0 as for Dice.
        hd95_mm: 95th percentile of the distances from one surface to the other, the larger one of both directions, in
            mm; nan if the label is in neither, infinite if it is in one of them.
    """

    first_voxels: int
    second_voxels: int
    dice: float
    nsd: float
    hd95_mm: float


ABSENT = Agreement(first_voxels=0, second_voxels=0, dice=math.nan, nsd=math.nan, hd95_mm=math.nan)
"""Of a label that is in neither segmentation: all scores are undefined, to be left out of means and counted apart."""


def surface_agreement(
    first: Volume,
    second: Volume,
    values: Iterable[int],
    *,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    surface: SurfaceKind = "voxels",
    threads: int | None = None,
) -> dict[int, Agreement]:
    """Return Dice, NSD and HD95 of every label; which segmentation is the first does not matter to them.

    With the surface ``voxels`` it is the voxels that share a face with the outside, and NSD counts those whose centre
    is at most the tolerance away from the centre of one of the other surface. NSD and HD95 are those of MONAI's
    ``compute_surface_dice`` and ``compute_hausdorff_distance(percentile=95)`` to the last digit of float32, but for
    HD95 of a label that only one of both has: MONAI interpolates between infinities there and returns nan.

    With ``subvoxel`` NSD is that of Nikolov et al. (arXiv:1809.04430) and of MONAI's ``use_subvoxels``: the surface
    runs between the voxels, and its patches count by their area in mm^2, not one each as voxels do, whatever they
    measure along each axis. HD95 is that of the surface voxels all the same.

    Args:
        first: label values, (z, y, x).
        second: label values on the same grid, in any of its axis orders.
        values: the labels, each > 0.
        tolerance_mm: of NSD; a distance that equals it in float32 is within.
        surface: what NSD takes for the surface.
        threads: labels to work on at once; None takes all cores that this process may use.

    Returns:
        By label, in the order of ``values``.

    Raises:
        GeometryError: the two volumes do not share a grid.
        InvalidSettingsError: a value is not a foreground label, or the tolerance is negative or not finite.
        UnsuitableVolumeError: one of the volumes is not a label map.
    """
    check_tolerance(tolerance_mm)
    second = on_same_grid(first, second, TITLES)
    maps = label_map(first, TITLES[0]), label_map(second, TITLES[1])
    wanted = list(values)
    work = partial(agreement, tolerance_mm=tolerance_mm, surface=surface)
    found = each_label(*maps, first.spacing, wanted, work, threads=threads)
    return {value: found.get(value, ABSENT) for value in wanted}


def check_tolerance(tolerance_mm: float) -> None:
    """Check a tolerance of NSD.

    Raises:
        InvalidSettingsError: it is negative or not finite.
    """
    if not 0 <= tolerance_mm < math.inf:
        raise InvalidSettingsError(f"the tolerance of NSD must be 0 mm or more, and finite, got {tolerance_mm}")


def agreement(pair: LabelPair, *, tolerance_mm: float, surface: SurfaceKind) -> Agreement:
    """Return how well two masks agree; see :func:`surface_agreement`."""
    first_voxels, second_voxels = int(np.count_nonzero(pair.first)), int(np.count_nonzero(pair.second))
    if not first_voxels or not second_voxels:
        return Agreement(first_voxels=first_voxels, second_voxels=second_voxels, dice=0.0, nsd=0.0, hd95_mm=math.inf)
    common = int(np.count_nonzero(pair.first & pair.second))
    surfaces = edge_voxels(pair.first), edge_voxels(pair.second)
    distances = _both_ways(surfaces, pair.spacing)
    hd95 = max(hd95_of(directed) for directed in distances)
    if surface == "subvoxel":
        surfaces = patches(pair.first, pair.spacing), patches(pair.second, pair.spacing)
        distances = _both_ways(surfaces, pair.spacing)
    return Agreement(
        first_voxels=first_voxels,
        second_voxels=second_voxels,
        dice=dice_of_counts(common, first_voxels + second_voxels),
        nsd=_surface_dice(surfaces, distances, tolerance_mm),
        hd95_mm=hd95,
    )


_Distances = npt.NDArray[np.float32]


def _both_ways(surfaces: tuple[SurfaceElements, SurfaceElements], spacing: Vector) -> tuple[_Distances, _Distances]:
    """Return the distances from each element of one surface to the other surface in mm, both ways.

    In float32, as MONAI has them: a distance that is the tolerance but for an error of float64 is within it.
    """
    first, second = surfaces
    return (
        nearest_distances(first.places, second.present, spacing).astype(np.float32),
        nearest_distances(second.places, first.present, spacing).astype(np.float32),
    )


def _surface_dice(
    surfaces: tuple[SurfaceElements, SurfaceElements], distances: tuple[_Distances, _Distances], tolerance_mm: float
) -> float:
    within = sum(
        float(elements.weights[directed <= np.float32(tolerance_mm)].sum())
        for elements, directed in zip(surfaces, distances, strict=True)
    )
    return within / sum(float(elements.weights.sum()) for elements in surfaces)


def hd95_of(distances: _Distances) -> float:
    """Return the 95th percentile of the distances from one surface to the other, in mm.

    Interpolated linearly between the two nearest ranks, and rounded to float32 where ``torch.quantile`` (2.14) rounds:
    the weight, the difference of both and, once, the result, as a fused multiply-add does. Earlier torch works out the
    rank itself in float32, which may change the last digits of large surfaces.

    Args:
        distances: one or more, in mm.
    """
    rank = _PERCENTILE * (distances.size - 1)
    below, above = math.floor(rank), math.ceil(rank)
    low, high = np.partition(distances, (below, above))[[below, above]].astype(np.float32)
    weight, difference = np.float32(rank - below), float(high - low)
    if weight < 0.5:
        return float(np.float32(float(low) + float(weight) * difference))
    return float(np.float32(float(high) - float(np.float32(1) - weight) * difference))

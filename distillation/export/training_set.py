"""What the images and reference segmentations look like that a network was trained on, for the manifest."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from distillation.dataset import read_header
from KDSegmentatorLib.analysis.labels import label_map
from KDSegmentatorLib.errors import ExportError, GeometryError, ImageReadError, TrainingError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import vector
from KDSegmentatorLib.inference.sanity import MANY_STRUCTURES
from KDSegmentatorLib.inference.structure_measures import (
    StructureVolumes,
    displacements,
    structure_intensities,
    structure_volumes,
)
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.packs.manifest import Code, Expected, ExpectedLabel, ExpectedPair, FieldOfView, Label

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    from distillation.dataset import Case, RawDataset
    from KDSegmentatorLib.packs.manifest import Manifest

_SIDES = {("SCT", "7771000"): "left", ("SCT", "24028007"): "right"}
_DIGITS = 4
_AXIS_OF = {code: axis for axis, codes in enumerate(("LR", "PA", "SI")) for code in codes}

_SideKey = tuple[tuple[str, str] | None, ...]


def training_cases(dataset: RawDataset, held_out: Collection[str]) -> tuple[Case, ...]:
    """Return the cases that are not held out.

    Raises:
        ExportError: there are none.
    """
    cases = tuple(case for case in dataset.cases if case.name not in held_out)
    if not cases:
        raise ExportError(f"{dataset.folder} has no case that is not held out; correct the split")
    return cases


def describe_field_of_view(cases: Sequence[Case], axis_codes: str) -> FieldOfView:
    """Return how large the images were that the network was trained on, from their headers.

    Args:
        cases: training cases, at least one.
        axis_codes: axis order that the lengths are given in.

    Returns:
        Whole images, in hundredths of a millimetre: headers hold spacings in float32.

    Raises:
        TrainingError: a header is not readable or its geometry is not usable.
    """
    extents = [read_header(case.image).extent(axis_codes) for case in cases]
    return FieldOfView(
        smallest=vector([round(min(lengths), 2) for lengths in zip(*extents, strict=True)]),
        largest=vector([round(max(lengths), 2) for lengths in zip(*extents, strict=True)]),
    )


def describe_expected(cases: Sequence[Case], labels: Sequence[Label]) -> Expected:
    """Return what the reference segmentations of these cases look like, from their voxels as they are stored.

    Args:
        cases: training cases, at least one.
        labels: of the pack.

    Returns:
        Volumes, differences, intensities and places with four significant digits.

    Raises:
        TrainingError: a segmentation or an image is not readable, or a segmentation is no label map.
    """
    values = [label.value for label in labels]
    measured = [_measured(case, max(values)) for case in cases]
    ml = np.stack([each.volumes.ml for each in measured])
    at_edge = np.stack([each.volumes.at_edge for each in measured])
    intensity = np.stack([each.intensities for each in measured])
    total = ml.sum(axis=1)
    many = len(labels) >= MANY_STRUCTURES
    places = _places(np.stack([each.volumes.places for each in measured]), ml, at_edge) if many else {}
    return Expected(
        cases=len(cases),
        smallest_ml=_rounded(_whole(total, np.any(at_edge, axis=1)).min()),
        largest_ml=_rounded(total.max()),
        labels=tuple(
            ExpectedLabel(
                value=value,
                cases=int(present.sum()),
                at_edge=int(at_edge[present, value].sum()),
                smallest_ml=_rounded(_whole(ml[present, value], at_edge[present, value]).min()),
                largest_ml=_rounded(ml[present, value].max()),
                intensity=_mean(intensity[present, value]) if many else None,
                place=places[value][0] if value in places else None,
                displacement=places[value][1] if value in places else None,
            )
            for value in values
            for present in [ml[:, value] > 0]
            if present.any()
        ),
        pairs=tuple(
            ExpectedPair(
                left=left,
                right=right,
                largest_difference=_rounded(
                    _whole(
                        abs(ml[both, left] - ml[both, right]) / ((ml[both, left] + ml[both, right]) / 2),
                        at_edge[both, left] | at_edge[both, right],
                    ).max()
                ),
            )
            for left, right in left_right_pairs(labels)
            for both in [(ml[:, left] > 0) & (ml[:, right] > 0)]
            if both.any()
        ),
    )


def turned_field_of_view(manifest: Manifest, axis_codes: str) -> FieldOfView | None:
    """Return a pack's field of view along other axis codes, as of a network that goes on from it in their order."""
    found = manifest.field_of_view
    if found is None:
        return None
    axes = [_AXIS_OF[code] for code in manifest.preprocessing.axis_codes]
    order = [axes.index(_AXIS_OF[code]) for code in axis_codes]
    return FieldOfView(
        smallest=vector([found.smallest[axis] for axis in order]),
        largest=vector([found.largest[axis] for axis in order]),
    )


def joined_field_of_view(before: FieldOfView | None, after: FieldOfView) -> FieldOfView | None:
    """Return the field of view of a network that was trained on two sets of images; None if one is not known."""
    if before is None:
        return None
    return FieldOfView(
        smallest=vector([min(pair) for pair in zip(before.smallest, after.smallest, strict=True)]),
        largest=vector([max(pair) for pair in zip(before.largest, after.largest, strict=True)]),
    )


def joined_expected(before: Expected | None, after: Expected) -> Expected | None:
    """Return what is expected of a network that was trained on two sets of cases; None if one is not known.

    Bounds are the wider ones, means those of all cases; a case of both sets counts twice in them. A structure's
    displacement reaches from the new mean place to the farthest of either set.
    """
    if before is None:
        return None
    first, second = ({each.value: each for each in part.labels} for part in (before, after))
    values = sorted(first.keys() | second.keys())
    pairs: dict[tuple[int, int], ExpectedPair] = {}
    for pair in (*before.pairs, *after.pairs):
        known = pairs.setdefault((pair.left, pair.right), pair)
        if pair.largest_difference > known.largest_difference:
            pairs[pair.left, pair.right] = pair
    return Expected(
        cases=before.cases + after.cases,
        smallest_ml=min(before.smallest_ml, after.smallest_ml),
        largest_ml=max(before.largest_ml, after.largest_ml),
        labels=tuple(_joined_label(first.get(value), second.get(value)) for value in values),
        pairs=tuple(pairs[key] for key in sorted(pairs)),
    )


def _joined_label(before: ExpectedLabel | None, after: ExpectedLabel | None) -> ExpectedLabel:
    if before is None or after is None:
        return cast("ExpectedLabel", before or after)
    cases = before.cases + after.cases
    intensity = [(each.intensity, each.cases) for each in (before, after) if each.intensity is not None]
    whole = [each for each in (before, after) if each.place is not None and each.displacement is not None]
    place = displacement = None
    if whole:
        weights = [max(1, each.cases - each.at_edge) for each in whole]
        mean = np.average(np.array([each.place for each in whole]), axis=0, weights=weights)
        reaches = [np.linalg.norm(each.place - mean) + each.displacement for each in whole]
        place, displacement = vector([_rounded(float(mm)) for mm in mean]), _rounded(float(max(reaches)))
    return ExpectedLabel(
        value=before.value,
        cases=cases,
        at_edge=before.at_edge + after.at_edge,
        smallest_ml=min(before.smallest_ml, after.smallest_ml),
        largest_ml=max(before.largest_ml, after.largest_ml),
        intensity=_rounded(sum(mean * count for mean, count in intensity) / sum(count for _, count in intensity))
        if intensity
        else None,
        place=place,
        displacement=displacement,
    )


def left_right_pairs(labels: Sequence[Label]) -> tuple[tuple[int, int], ...]:
    """Return the label values of what is left and right of one kind, by their terminology.

    Both have the same category, type, region and modifiers, but for one modifier that is SNOMED CT's Left (7771000) in
    one and Right (24028007) in the other. A kind that has several labels on a side (parts that its codes do not tell
    apart) has no pair.
    """
    kinds: dict[_SideKey, dict[str, list[int]]] = defaultdict(lambda: {"left": [], "right": []})
    for label in labels:
        terms = label.terminology
        codes = (terms.category, terms.type, terms.type_modifier, terms.region, terms.region_modifier)
        plain = [_plain(code) for code in codes]
        sides = {n: _SIDES[code] for n, code in enumerate(plain) if code in _SIDES}
        if len(sides) == 1:
            ((place, side),) = sides.items()
            kinds[tuple(("side", "") if n == place else code for n, code in enumerate(plain))][side].append(label.value)
    return tuple(
        (kind["left"][0], kind["right"][0]) for kind in kinds.values() if len(kind["left"]) == len(kind["right"]) == 1
    )


def _plain(code: Code | None) -> tuple[str, str] | None:
    return None if code is None else (code.scheme, code.value)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    volumes: StructureVolumes
    intensities: npt.NDArray[np.float64]


def _measured(case: Case, largest_value: int) -> _Measured:
    try:
        volume = read_volume(case.label, allow_constant=True)
        labels = volume.with_voxels(label_map(volume).voxels)
        volumes = structure_volumes(labels, largest_value)
    except (ImageReadError, GeometryError, UnsuitableVolumeError) as error:
        raise TrainingError(f"{case.label}: {error}") from error
    try:
        image = read_volume(case.image)
    except (ImageReadError, GeometryError) as error:
        raise TrainingError(f"{case.image}: {error}") from error
    return _Measured(volumes=volumes, intensities=structure_intensities(labels, image, largest_value))


def _mean(numbers: npt.NDArray[np.float64]) -> float | None:
    return None if np.isnan(numbers).all() else _rounded(float(np.nanmean(numbers)))


def _places(
    found: npt.NDArray[np.float64], ml: npt.NDArray[np.float64], at_edge: npt.NDArray[np.bool_]
) -> dict[int, tuple[tuple[float, float, float], float]]:
    """Return, by label value, where a structure is on average and how far from there it is at most, in mm.

    Places count from the centroid of what a case has of all structures, which moves with what it lacks: the cases are
    laid on each other by the median of their structures before they are averaged.

    Args:
        found: (cases, n, 3) places, (L, P, S) in mm.
        ml: (cases, n) volumes, 0 where a structure is absent.
        at_edge: (cases, n) where it is cut, perhaps; such cases are left out of its place.
    """
    whole = (ml > 0) & ~at_edge
    values = np.flatnonzero(whole.any(axis=0))
    if not values.size:
        return {}
    whole = whole[:, values]
    places = np.where(whole[..., None], found[:, values], np.nan)
    first = np.nanmean(places, axis=0)
    for case in np.flatnonzero(whole.any(axis=1)):
        places[case] -= np.nanmedian(places[case] - first, axis=0)
    mean = np.nanmean(places, axis=0)
    farthest = np.zeros(len(values))
    for case in np.flatnonzero(whole.any(axis=1)):
        there = whole[case]
        farthest[there] = np.maximum(farthest[there], displacements(places[case, there], mean[there]))
    return {
        int(value): ((_rounded(x), _rounded(y), _rounded(z)), _rounded(mm))
        for value, (x, y, z), mm in zip(values, mean.tolist(), farthest.tolist(), strict=True)
    }


def _whole(numbers: npt.NDArray[np.float64], at_edge: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the numbers of the structures that do not touch the edge of their image, or all if all do."""
    return numbers if at_edge.all() else numbers[~at_edge]


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")

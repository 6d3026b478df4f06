"""Is this result what the pack's training cases look like? A warning where it is not; the result itself stays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import Volume, axes_along
from KDSegmentatorLib.inference.segmentation import ResultWarning, WarningKind
from KDSegmentatorLib.inference.structure_measures import (
    StructureVolumes,
    displacements,
    structure_intensities,
    structure_volumes,
)
from KDSegmentatorLib.packs.manifest import ExpectedLabel, ExpectedPair, Label, Manifest

# The limits, and what they were measured on: docs/result-checks.md

# Volumes, as fractions of the smallest and the largest in the training set
LABEL_TIMES_SMALLEST, LABEL_TIMES_LARGEST = 0.5, 1.5
TOTAL_TIMES_SMALLEST, TOTAL_TIMES_LARGEST = 0.85, 1.2  # of all structures together, which vary less
# Left and right may differ by so many times the largest difference in the training set, and this much more
TIMES_LARGEST_DIFFERENCE, ADDED_DIFFERENCE = 1.5, 0.3
# In mm, a structure may be this much farther from its place than in any case of the training set
ADDED_MM = 10.0
# Pearson's correlation of the structures' brightness with that in the training images
LEAST_CORRELATION = 0.7
# From this share of the structure's smallest volume on, what touches the edge is cut off; less of it is just small
CUT_OFF_SHARE = 0.05
# A structure with a smaller mean Dice in the pack's own evaluation is one that the pack does not find
LEAST_DICE = 0.05
# What so many of the training cases have in common is usual: that a structure is there, and that it is whole
ALMOST_EVERY_CASE = 0.95
# A result is implausible as a whole if so many and more than this share of at least MANY_STRUCTURES are odd
MANY_STRUCTURES, MANY_ODD, ODD_SHARE = 6, 3, 1 / 5
# A slice distance of more than so many times the training set's is thick, and explains these
TIMES_THICKEST = 2.0
_EXPLAINED_BY_THICKNESS = {"missing", "small", "large", "asymmetric"}
# Structures that the sentence about displaced ones names
MOST_NAMED = 5


def judge(
    segmentation: Volume,
    labels: Sequence[Label],
    manifest: Manifest,
    image: Volume | None = None,
    *,
    advance: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[ResultWarning, ...]:
    """Return what is odd about a result, the most important first; nothing about most results.

    Without ``expected`` in the manifest only structures that were not found are odd. One that the pack did not find in
    its own evaluation either (:data:`LEAST_DICE`) is odd only if it is too large.

    Args:
        segmentation: all label values of the pack, unsigned, (z, y, x). Whether the result as a whole can be right
            shows in all structures, also where few of them are wanted.
        labels: the structures that are wanted; what is odd about a single other one is not said, nor is anything
            about the sum unless all are wanted.
        manifest: of the pack.
        image: the scan on the same grid; None leaves its contrast unjudged.
        advance: called once for each of the :func:`~KDSegmentatorLib.geometry.slabs`; may raise to stop the work.
        check: called as often while the contrast is looked at; may raise as well.
    """
    largest = max(label.value for label in manifest.labels)
    volumes = structure_volumes(segmentation, largest, advance)
    judge = _Judge(volumes, labels, manifest)
    if not volumes.ml.any():
        return judge.empty()
    as_a_whole = judge.whole() if image is None else (*judge.whole(), *judge.contrast(segmentation, image, check))
    if not volumes.ml[[label.value for label in labels]].any():
        return (*as_a_whole, *judge.empty())
    sizes = judge.sizes()
    said = {name for warning in sizes for name in warning.labels}
    pairs = (pair for pair in judge.pairs() if said.isdisjoint(pair.labels))
    return judge.thick_slices(
        segmentation, (*as_a_whole, *judge.missing(), *judge.displaced(), *judge.total(), *sizes, *pairs)
    )


class _Judge:
    def __init__(self, volumes: StructureVolumes, labels: Sequence[Label], manifest: Manifest) -> None:
        self._volumes = volumes
        self._manifest = manifest
        self._names = {label.value: label.name for label in manifest.labels}
        self._wanted = {label.value: label.name for label in labels}
        self._complete = self._wanted.keys() == self._names.keys()
        self._expected = manifest.expected
        known = () if manifest.expected is None else manifest.expected.labels
        self._known: dict[int, ExpectedLabel] = {label.value: label for label in known}
        scores = () if manifest.evaluation is None else manifest.evaluation.labels
        self._never_found = {score.value for score in scores if score.dice.mean < LEAST_DICE}

    def empty(self) -> tuple[ResultWarning, ...]:
        """Judge a result without any voxel of the wanted structures."""
        expected = self._expected
        allowed = not self._complete or (expected is not None and expected.smallest_ml == 0)
        if allowed and not self._absent(self._wanted):
            return ()
        if self._complete:
            found = "Nothing was found at all"
        else:
            found = f"None of the chosen structures was found ({', '.join(self._wanted.values())})"
            if self._wanted.keys() <= self._never_found:
                found += ", as in the pack's own evaluation"
        return (
            self._warning(
                "empty",
                () if self._complete else tuple(self._wanted.values()),
                f"{found}. Do not use this result: check that the volume shows what the pack is for "
                f"({self._manifest.title}; {self._manifest.modality}, {self._manifest.body_part.lower()}), and that "
                "its orientation is right.",
            ),
        )

    def whole(self) -> tuple[ResultWarning, ...]:
        """Judge the result as a whole by how many of its structures are missing, or far from their size or place."""
        judged = self._names.keys() - self._never_found
        odd = {*self._absent(judged), *(value for _, value, _ in self._far)}
        odd |= {value for value in judged & self._odd_sizes.keys() if self._odd_sizes[value].kind != "cut off"}
        if len(judged) < MANY_STRUCTURES or len(odd) < MANY_ODD or len(odd) <= ODD_SHARE * len(judged):
            return ()
        return (
            self._warning(
                "implausible",
                (),
                f"{len(odd)} of {len(judged)} structures are missing, or far from their size or place in the training "
                f"set. Do not use this result before it is clear that the volume shows what the pack is for "
                f"({self._manifest.title}; {self._manifest.modality}, {self._manifest.body_part.lower()}), all of it, "
                "and that its orientation is right.",
            ),
        )

    def thick_slices(self, volume: Volume, warnings: tuple[ResultWarning, ...]) -> tuple[ResultWarning, ...]:
        """Return warnings with one in place of all that thick slices explain, the first of all."""
        axes = [2 - axis for axis in self._manifest.preprocessing.transpose_forward]
        codes = self._manifest.preprocessing.axis_codes
        index = axes_along(volume.axis_codes, codes)
        spacing = [volume.spacing[index[axis]] for axis in axes]
        times, given, trained = max(
            (given / trained, given, trained)
            for given, trained in zip(spacing, self._manifest.preprocessing.spacing, strict=True)
        )
        if times <= TIMES_THICKEST:
            return warnings
        explained = [warning for warning in warnings if warning.kind in _EXPLAINED_BY_THICKNESS]
        names = tuple(dict.fromkeys(name for warning in explained for name in warning.labels))
        odd = f" {len(names)} of {len(self._wanted)} structures look odd: {', '.join(names)}." if names else ""
        return (
            self._warning(
                "thick slices",
                names,
                f"The slices are {given:.3g} mm apart, and the pack was trained on {trained:.3g} mm: structures that "
                f"are thinner than a slice are drawn poorly.{odd} Take a scan with thinner slices if there is one, and "
                "check the result.",
                given,
                (0.0, trained),
            ),
            *(warning for warning in warnings if warning not in explained),
        )

    def contrast(self, segmentation: Volume, image: Volume, check: Callable[[], None]) -> tuple[ResultWarning, ...]:
        """Judge whether the structures are bright and dark as they are in the training images."""
        trained = {
            value: label.intensity
            for value, label in self._known.items()
            if label.intensity is not None and self._volumes.ml[value] > 0
        }
        if len(trained) < MANY_STRUCTURES or len(set(trained.values())) == 1:
            return ()
        found = structure_intensities(segmentation, image, max(self._known), check)[list(trained)]
        correlation = _correlation(found, np.array(list(trained.values())))
        if correlation is None:
            what = "The structures are all equally bright, and those of the training images are not"
        elif correlation < LEAST_CORRELATION:
            what = (
                f"The structures are not bright and dark as in the training images (correlation {correlation:.2f}, "
                f"at least {LEAST_CORRELATION:g} is usual)"
            )
        else:
            return ()
        return (
            self._warning(
                "contrast",
                (),
                f"{what}: the scan may be of another sequence than the pack is for, its orientation may be wrong, or "
                "the structures are not where they were found. Do not use this result before that is clear.",
                correlation,
                (LEAST_CORRELATION, 1.0),
            ),
        )

    def missing(self) -> tuple[ResultWarning, ...]:
        absent = [value for value in self._absent(self._wanted) if value not in self._never_found]
        if not absent:
            return ()
        names = tuple(self._names[value] for value in absent)
        known = "" if self._expected is None else ", which (almost) every training case has"
        return (
            self._warning(
                "missing", names, f"Not found: {', '.join(names)}{known}. Check what the volume shows of them."
            ),
        )

    def displaced(self) -> tuple[ResultWarning, ...]:
        """Judge where the wanted structures are among all."""
        far = [(mm, self._names[value], most) for mm, value, most in self._far if value in self._wanted]
        if not far:
            return ()
        mm, name, most = far[0]
        more = "".join(f", {other} {distance:.0f} mm" for distance, other, _ in far[1:MOST_NAMED])
        more += f", and {len(far) - MOST_NAMED} more structures" if len(far) > MOST_NAMED else ""
        orientation = ", and that the orientation of the volume is right" if len(self._far) >= MANY_ODD else ""
        return (
            self._warning(
                "displaced",
                tuple(name for _, name, _ in far),
                f"{name} is {mm:.0f} mm from where it would be among the other structures (in the training set at most "
                f"{most:.0f} mm){more}. Check the result{orientation}.",
                mm,
                (0.0, most),
            ),
        )

    def total(self) -> tuple[ResultWarning, ...]:
        """Judge all structures together; too little of them is not said where those that are missing explain it.

        They explain no more than the largest volume that they have in the training set.
        """
        expected, volume = self._expected, float(self._volumes.ml.sum())
        if expected is None or not self._complete or len(self._names) == 1:
            return ()
        explained = sum(self._known[value].largest_ml for value in self._absent(self._names))
        if volume < TOTAL_TIMES_SMALLEST * expected.smallest_ml <= volume + explained:
            return ()
        size = self._size(
            volume,
            (expected.smallest_ml, expected.largest_ml),
            (TOTAL_TIMES_SMALLEST, TOTAL_TIMES_LARGEST),
            at_edge=any(_usually_whole(known) and self._at_edge(known) for known in self._known.values()),
        )
        return () if size is None else (size,)

    def sizes(self) -> tuple[ResultWarning, ...]:
        return tuple(
            warning
            for value, warning in self._odd_sizes.items()
            if value in self._wanted and (warning.kind == "large" or value not in self._never_found)
        )

    def pairs(self) -> tuple[ResultWarning, ...]:
        warnings: list[ResultWarning] = []
        for pair in () if self._expected is None else self._expected.pairs:
            left, right = (float(self._volumes.ml[value]) for value in (pair.left, pair.right))
            if not {pair.left, pair.right} <= self._wanted.keys() - self._never_found or left == 0 or right == 0:
                continue
            difference = abs(left - right) / ((left + right) / 2)
            if difference > TIMES_LARGEST_DIFFERENCE * pair.largest_difference + ADDED_DIFFERENCE:
                warnings.append(self._asymmetry(pair, left, right, difference))
        return tuple(warnings)

    def _absent(self, values: Collection[int]) -> list[int]:
        """Return which of some structures have no voxel, though (almost) every training case has them."""
        return [value for value in values if self._volumes.ml[value] == 0 and self._usual(value)]

    @cached_property
    def _odd_sizes(self) -> dict[int, ResultWarning]:
        """What is odd about the sizes of single structures, by label value."""
        odd: dict[int, ResultWarning] = {}
        for value, name in self._names.items():
            known, volume = self._known.get(value), float(self._volumes.ml[value])
            if known is None or volume == 0:
                continue
            size = self._size(
                volume,
                (known.smallest_ml, known.largest_ml),
                (LABEL_TIMES_SMALLEST, LABEL_TIMES_LARGEST),
                at_edge=self._at_edge(known),
                usually_whole=_usually_whole(known),
                name=name,
            )
            if size is not None:
                odd[value] = size
        return odd

    @cached_property
    def _far(self) -> list[tuple[float, int, float]]:
        """What is too far from its place among the others, the farthest first.

        Distance in mm, label value, and the largest such distance in the training set. Structures of which a part may
        lie beyond the edge are left out.
        """
        known = {
            value: (label.place, label.displacement)
            for value, label in self._known.items()
            if label.place is not None
            and label.displacement is not None
            and value not in self._never_found
            and self._usual(value)
            and self._volumes.ml[value] > 0
            and not self._volumes.at_edge[value]
        }
        if len(known) < MANY_STRUCTURES:
            return []
        places = np.array([place for place, _ in known.values()])
        found = displacements(self._volumes.places[list(known)], places).tolist()
        farthest = sorted(zip(found, known.items(), strict=True), reverse=True)
        return [(mm, value, most) for mm, (value, (_, most)) in farthest if mm > most + ADDED_MM]

    def _usual(self, value: int) -> bool:
        """Return whether (almost) every training case has a label, also if the pack does not say."""
        if self._expected is None:
            return True
        known = self._known.get(value)
        return known is not None and known.cases >= ALMOST_EVERY_CASE * self._expected.cases

    def _at_edge(self, known: ExpectedLabel) -> bool:
        """Return whether enough of a structure is there, at the edge of the volume, for its rest to lie beyond it."""
        enough = self._volumes.ml[known.value] >= CUT_OFF_SHARE * known.smallest_ml
        return bool(self._volumes.at_edge[known.value] and enough)

    def _size(
        self,
        volume: float,
        trained: tuple[float, float],
        times: tuple[float, float],
        *,
        at_edge: bool,
        usually_whole: bool = False,
        name: str = "",
    ) -> ResultWarning | None:
        """Judge one volume in ml; without a name that of all structures together."""
        small, large = volume < times[0] * trained[0], volume > times[1] * trained[1]
        if not small and not large and not (at_edge and usually_whole):
            return None
        kind: WarningKind = "large" if large else "cut off" if at_edge else "small"
        if name:
            said = {"large": "is larger than expected", "small": "is smaller than expected"}
            subject = name
        else:
            said = {"large": "are larger than expected", "small": "are smaller than expected"}
            subject = "All structures together"
        if kind == "cut off":
            what = f"{name} is cut off" if name else "Structures are cut off"
            what += " at the edge of the volume"
        else:
            what = f"{subject} {said[kind]}"
        numbers = f"{ml_text(volume)} ml{'' if name else ' together'}"
        return self._warning(
            kind,
            (name,) if name else (),
            f"{what}: {numbers}, in the training set {ml_text(trained[0])} to {ml_text(trained[1])} ml. Check the "
            "result.",
            volume,
            trained,
        )

    def _asymmetry(self, pair: ExpectedPair, left: float, right: float, difference: float) -> ResultWarning:
        names = self._names[pair.left], self._names[pair.right]
        smaller = pair.left if left < right else pair.right
        cut = bool(self._volumes.at_edge[smaller])  # large enough, or its size would have been said instead
        if cut:
            what = f"{self._names[smaller]} is cut off at the edge of the volume"
        else:
            what = "Left and right differ more than expected"
        return self._warning(
            "cut off" if cut else "asymmetric",
            names,
            f"{what}: {names[0]} {ml_text(left)} ml, {names[1]} {ml_text(right)} ml. They differ by {difference:.0%} "
            f"of their mean, in the training set by {pair.largest_difference:.0%} at most. Check the result.",
            difference,
            (0.0, pair.largest_difference),
        )

    def _warning(
        self,
        kind: WarningKind,
        labels: tuple[str, ...],
        sentence: str,
        found: float | None = None,
        expected: tuple[float, float] | None = None,
    ) -> ResultWarning:
        return ResultWarning(
            kind=kind,
            pack_id=self._manifest.id,
            labels=labels,
            found=found,
            expected=expected,
            sentence=sentence,
        )


def _correlation(found: npt.NDArray[np.float64], trained: npt.NDArray[np.float64]) -> float | None:
    """Return Pearson's correlation with numbers that differ; None if those that were found are equal or nan."""
    if not np.isfinite(found).all() or np.ptp(found) == 0:
        return None
    return float(np.corrcoef(found, trained)[0, 1])


def _usually_whole(known: ExpectedLabel) -> bool:
    return known.at_edge <= (1 - ALMOST_EVERY_CASE) * known.cases


def ml_text(volume: float) -> str:
    """Return a volume with about three digits: ``1310``, ``12.5``, ``0.083``."""
    return f"{volume:.0f}" if volume >= 100 else f"{volume:.3g}"

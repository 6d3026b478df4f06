"""From scores to means with intervals, and paired comparisons of two networks on the same cases.

Rescans of a person, or images made from one head, are not independent: they say together what one subject says. So the
cases of a subject are averaged first, and means, intervals and tests are over subjects. A case that shares its subject
with no other one stands for itself.

Where a network was trained with several seeds, these are drawn at random as subjects are: differences are tested over
seeds x subjects (:func:`crossed`), so that neither many cases of one training nor many trainings on one case show much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from KDSegmentatorLib.analysis.overlap import defined, mean_interval
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.packs.manifest import Interval

if TYPE_CHECKING:
    from distillation.evaluation.scores import Score

SEED = 0
"""Of every bootstrap."""

Metric = Literal["dice", "nsd", "hd95_mm"]

METRICS: tuple[Metric, ...] = ("dice", "nsd", "hd95_mm")

METRIC_TITLES: dict[Metric, str] = {"dice": "Dice", "nsd": "NSD", "hd95_mm": "HD95 (mm)"}

LOWER_IS_BETTER: frozenset[Metric] = frozenset({"hd95_mm"})

LIMITS: dict[Metric, tuple[float, float]] = {"dice": (0.0, 1.0), "nsd": (0.0, 1.0), "hd95_mm": (0.0, math.inf)}
"""Least and largest value there can be."""

FEWEST_PAIRS = 6
"""The fewest pairs of which a two-sided test of signs or ranks can reach p = 0.05: n pairs reach 2 / 2^n at best, which
is 0.0625 of five."""

FAILED_DICE = 0.2
"""A structure of less mean Dice was not learnt: whoever is compared with this teacher has nothing to lose there."""

CONFIDENCE = 0.95

AGREEMENT: dict[Metric, float] = {"dice": 1.0, "nsd": 1.0, "hd95_mm": 0.0}
"""What two segmentations without a label score where they are compared with ones that have it."""


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One network by one metric.

    Attributes:
        cases: mean over the labels of each case; labels in neither segmentation, and cases without any, are left out.
        scores: by case and label, as they count in means; None if the label is in neither segmentation.
        mean: over subjects.
        labels: by label value, over the subjects that have it in a case; a label of one such subject has no interval
            and is left out.
    """

    cases: dict[str, float]
    scores: dict[str, dict[int, float | None]]
    mean: Interval
    labels: dict[int, Interval]


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One network on all cases.

    Attributes:
        model: its name.
        metrics: results by metric.
        subjects: the subject of each case.
        label_subjects: by label value, of how many subjects it is defined.
        undefined: number of case-label pairs where the label is in neither segmentation; they are left out.
        replaced: number of pairs where it is in one of them only: Dice and NSD are 0, and the infinite HD95 counts as
            the diagonal of the image.
        seconds: median wall time of a case.
    """

    model: str
    metrics: dict[Metric, MetricResult]
    subjects: dict[str, str]
    label_subjects: dict[int, int]
    undefined: int
    replaced: int
    seconds: float

    @property
    def case_count(self) -> int:
        """Cases with at least one label."""
        return len(self.metrics["dice"].cases)

    @property
    def subject_count(self) -> int:
        """Subjects of these cases: how many independent values the statistics are over."""
        return len({self.subjects[case] for case in self.metrics["dice"].cases})

    def mean(self, metric: Metric) -> float:
        """Return the mean over subjects."""
        return self.metrics[metric].mean.mean


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two networks on the same cases, by one metric.

    Attributes:
        better: name of the network that should be better (distilled).
        baseline: name of the one it is compared with (plain).
        metric: what is compared.
        difference: mean of the paired differences of the subjects, better - baseline, in the metric's unit.
        pairs: number of subjects.
        improved: number of subjects that are better.
        worsened: number of subjects that are worse; the others are equal.
        rank_sum: of the ranks that the test gives the subjects, those of better ones minus those of worse ones:
            positive where the test speaks for the better network, whatever the sign of the metric.
        seeds: trainings of each network.
        p_value: two-sided; of one seed, Wilcoxon's signed-rank test with zeros by Pratt's method, of several that of
            :func:`crossed`; None with fewer than :data:`FEWEST_PAIRS` pairs, of which no test could show anything.
        p_holm: the p value adjusted by Holm's method over all comparisons by this metric; None without a p value.
        gap: teacher - baseline over the structures that the teacher does not fail (:func:`failed_labels`): what there
            is to recover; None without a teacher.
        recovered: (better - baseline) / (teacher - baseline) of the means over what can be compared of all three, the
            share of the lost accuracy that is won back; None unless the whole interval of the gap is a loss.
    """

    better: str
    baseline: str
    metric: Metric
    difference: Interval
    pairs: int
    improved: int
    worsened: int
    rank_sum: float
    seeds: int = 1
    p_value: float | None
    p_holm: float | None
    gap: Interval | None
    recovered: float | None

    @property
    def gain(self) -> float:
        """The mean difference, positive if it is for the better."""
        return -self.difference.mean if self.metric in LOWER_IS_BETTER else self.difference.mean


def summarise(model: str, scores: Iterable[Score], subjects: Mapping[str, str] | None = None) -> ModelResult:
    """Return the result of one network.

    Args:
        model: its name.
        scores: of this network and of others.
        subjects: the subject of each case; cases that are not in it stand for themselves.

    Raises:
        InvalidSettingsError: the cases with a label are of fewer than two subjects.
    """
    own = [score for score in scores if score.model == model]
    known = {score.case: (subjects or {}).get(score.case, score.case) for score in own}
    by_label: dict[int, set[str]] = {score.label: set() for score in own}
    for score in own:
        if not math.isnan(score.dice):
            by_label[score.label].add(known[score.case])
    return ModelResult(
        model=model,
        metrics={metric: _summarise(own, metric, known) for metric in METRICS},
        subjects=known,
        label_subjects={label: len(found) for label, found in by_label.items()},
        undefined=sum(math.isnan(score.dice) for score in own),
        replaced=sum(math.isinf(score.hd95_mm) for score in own),
        seconds=float(np.median([score.seconds for score in own])),
    )


def failed_labels(teacher: ModelResult) -> tuple[int, ...]:
    """Return the labels that a teacher did not learn: its mean Dice over subjects is below :data:`FAILED_DICE`."""
    labels = teacher.metrics["dice"].labels
    return tuple(label for label in sorted(labels) if labels[label].mean < FAILED_DICE)


def compare_all(
    pairs: Sequence[tuple[str, str]],
    results: Mapping[str, ModelResult],
    teacher: ModelResult | None,
    seeds: Sequence[Mapping[str, ModelResult]] = (),
) -> tuple[Comparison, ...]:
    """Compare networks, paired by case, by every metric; p values are adjusted over all pairs, metric by metric.

    Args:
        pairs: names of the better network and of the baseline.
        results: by name, averaged over seeds.
        teacher: None if it was not evaluated; there is no recovered loss then.
        seeds: the results of every seed by name, if there are several.

    Raises:
        InvalidSettingsError: two networks were not evaluated on the same cases.
    """
    found: list[Comparison] = []
    for metric in METRICS:
        raw = [compare(results[better], results[baseline], teacher, metric, seeds) for better, baseline in pairs]
        adjusted = iter(holm([each.p_value for each in raw if each.p_value is not None]))
        found += [each if each.p_value is None else replace(each, p_holm=next(adjusted)) for each in raw]
    return tuple(found)


def compare(
    better: ModelResult,
    baseline: ModelResult,
    teacher: ModelResult | None,
    metric: Metric,
    seeds: Sequence[Mapping[str, ModelResult]] = (),
) -> Comparison:
    """Compare two networks, paired by case and averaged by subject; the p value is that of a single comparison.

    Args:
        better: averaged over seeds, if there are several.
        baseline: likewise.
        teacher: likewise; None if it was not evaluated.
        metric: what is compared.
        seeds: the results of every seed by name, of two and more.

    Raises:
        InvalidSettingsError: they were not evaluated on the same cases.
    """
    from scipy.stats import rankdata

    differences = list(paired_differences(better, baseline, metric).values())
    gains = [-each if metric in LOWER_IS_BETTER else each for each in differences]
    difference, p_value = mean_interval(differences, seed=SEED), signed_rank_p(differences)
    if len(seeds) > 1:
        tables = [paired_differences(seed[better.model], seed[baseline.model], metric) for seed in seeds]
        difference, p_of_both = crossed([[table[subject] for subject in sorted(table)] for table in tables])
        p_value = None if p_value is None else p_of_both
    gap = None if teacher is None else _gap(baseline, teacher, metric, seeds)
    return Comparison(
        better=better.model,
        baseline=baseline.model,
        metric=metric,
        difference=difference,
        seeds=max(1, len(seeds)),
        gap=gap,
        pairs=len(differences),
        improved=sum(gain > 0 for gain in gains),
        worsened=sum(gain < 0 for gain in gains),
        rank_sum=float(np.dot(np.sign(gains), rankdata(np.abs(gains)))),
        p_value=p_value,
        p_holm=p_value,
        recovered=_recovered(better, baseline, teacher, metric)
        if teacher is not None and _is_loss(gap, metric)
        else None,
    )


def paired(metric: Metric, *results: ModelResult) -> list[dict[str, dict[int, float]]]:
    """Return the scores of networks that can be compared, by case and label: the same ones of each network.

    A label of a case that is undefined for all networks is left out. Where it is undefined for some of them, it counts
    there as agreement (:data:`AGREEMENT`): they rightly find nothing.

    Raises:
        InvalidSettingsError: the networks were not evaluated on the same cases and labels.
    """
    tables = [result.metrics[metric].scores for result in results]
    for result, table in zip(results, tables, strict=True):
        if {case: row.keys() for case, row in table.items()} != {case: row.keys() for case, row in tables[0].items()}:
            raise InvalidSettingsError(f"{results[0].model} and {result.model} were not evaluated on the same cases")
    found: list[dict[str, dict[int, float]]] = [{} for _ in results]
    for case in sorted(tables[0]):
        for label in tables[0][case]:
            values = [table[case][label] for table in tables]
            if any(value is not None for value in values):
                for own, value in zip(found, values, strict=True):
                    own.setdefault(case, {})[label] = AGREEMENT[metric] if value is None else value
    return found


def paired_differences(better: ModelResult, baseline: ModelResult, metric: Metric) -> dict[str, float]:
    """Return better - baseline by subject: the mean over its cases, of each over the labels that :func:`paired` has.

    Raises:
        InvalidSettingsError: the networks were not evaluated on the same cases and labels.
    """
    new, old = (case_means(table) for table in paired(metric, better, baseline))
    return subject_means({case: new[case] - old[case] for case in new}, better.subjects)


def case_means(table: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Return the mean over the labels of every case."""
    return {case: _mean(list(labels.values())) for case, labels in table.items()}


def subject_means(values: Mapping[str, float], subjects: Mapping[str, str]) -> dict[str, float]:
    """Return the mean over the cases of every subject, of values by case."""
    by_subject: dict[str, list[float]] = {}
    for case, value in values.items():
        by_subject.setdefault(subjects[case], []).append(value)
    return {subject: _mean(own) for subject, own in by_subject.items()}


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p value of Wilcoxon's signed-rank test, zeros by Pratt; None of too few differences."""
    from scipy.stats import wilcoxon

    if len(differences) < FEWEST_PAIRS:
        return None
    unequal = sum(each != 0 for each in differences)
    if not unequal:
        return 1.0
    # with zeros SciPy approximates, and may promise less than the pairs that differ can show: 0.046 for 4 of 42
    return max(float(wilcoxon(differences, zero_method="pratt").pvalue), 2 * 0.5**unequal)


def crossed(values: Sequence[Sequence[float]]) -> tuple[Interval, float]:
    """Return mean, 95 % interval and two-sided p value of differences of which both seeds and subjects are drawn.

    Two-way random effects without replication: with MS the mean squares of seeds, of subjects and of what is left, the
    variance of the mean is (MS_seeds + MS_subjects - MS_rest) / n, its degrees of freedom are Satterthwaite's (as in
    Clark, J. Verbal Learning and Verbal Behavior 12, 1973). It is never taken to be less than that of either alone.

    Args:
        values: seeds x subjects, at least two of each.

    Examples:
        >>> interval, p = crossed([[0.01, 0.02, 0.03], [0.02, 0.03, 0.04]])
        >>> round(interval.mean, 3), interval.low < 0.025 < interval.high
        (0.025, True)
    """
    from scipy.stats import t

    table = np.asarray(values, dtype=np.float64)
    seeds, subjects = table.shape
    mean = float(table.mean())
    by_seed, by_subject = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_subject[None] + mean
    squares = (
        subjects * float(by_seed.var(ddof=1)),
        seeds * float(by_subject.var(ddof=1)),
        float((rest**2).sum()) / ((seeds - 1) * (subjects - 1)),
    )
    freedom = (seeds - 1, subjects - 1, (seeds - 1) * (subjects - 1))
    both = squares[0] + squares[1] - squares[2]
    spread = sum(square**2 / free for square, free in zip(squares, freedom, strict=True))
    variance, degrees = max(
        (both, both**2 / spread if spread else 1.0),
        *zip(squares[:2], map(float, freedom[:2]), strict=True),
        key=lambda each: each[0],
    )
    error = math.sqrt(max(variance, 0.0) / table.size)
    if error < 1e-12 * max(1.0, abs(mean)):
        return Interval(mean=mean, low=mean, high=mean), 1.0 if mean == 0 else 0.0
    low, high = t.interval(CONFIDENCE, df=degrees, loc=mean, scale=error)
    return Interval(mean=mean, low=float(low), high=float(high)), float(2 * t.sf(abs(mean) / error, df=degrees))


def _gap(
    baseline: ModelResult, teacher: ModelResult, metric: Metric, seeds: Sequence[Mapping[str, ModelResult]]
) -> Interval | None:
    """Return teacher - baseline over the structures that the teacher does not fail; None if it fails all."""
    failed = failed_labels(teacher)

    def differences(best: ModelResult, old: ModelResult) -> dict[str, float]:
        first, second = (_without(table, failed) for table in paired(metric, best, old))
        new, before = case_means(first), case_means(second)
        return subject_means({case: new[case] - before[case] for case in new}, baseline.subjects)

    own = differences(teacher, baseline)
    if len(own) < 2:
        return None
    if len(seeds) < 2:
        return mean_interval(list(own.values()), seed=SEED)
    tables = [differences(seed[teacher.model], seed[baseline.model]) for seed in seeds]
    return crossed([[table[subject] for subject in sorted(table)] for table in tables])[0]


def _is_loss(gap: Interval | None, metric: Metric) -> bool:
    """Return whether the whole interval of teacher - baseline says that the baseline is worse."""
    if gap is None:
        return False
    return gap.high < 0 if metric in LOWER_IS_BETTER else gap.low > 0


def _recovered(better: ModelResult, baseline: ModelResult, teacher: ModelResult, metric: Metric) -> float | None:
    failed = failed_labels(teacher)
    best, new, old = (
        _mean(list(subject_means(case_means(_without(table, failed)), better.subjects).values()))
        for table in paired(metric, teacher, better, baseline)
    )
    return (new - old) / (best - old) if best != old else None


def _without(table: Mapping[str, Mapping[int, float]], labels: Sequence[int]) -> dict[str, dict[int, float]]:
    """Return scores by case and label without some labels, and without the cases that have no other."""
    kept = {case: {label: value for label, value in row.items() if label not in labels} for case, row in table.items()}
    return {case: row for case, row in kept.items() if row}


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down method, which keeps the family-wise error rate."""
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, n in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[n]))
        adjusted[n] = largest
    return adjusted


def metric_value(score: Score, metric: Metric) -> float:
    """Return what a score counts as in means: an infinite HD95 is replaced by the diagonal of the image."""
    value = float(getattr(score, metric))
    return score.diagonal_mm if math.isinf(value) else value


def or_agreement(value: float, metric: Metric) -> float:
    """Return a score, or that of full agreement if it is undefined.

    Without this, the segmentation that rightly finds nothing could not be compared with the one that finds something.
    """
    return AGREEMENT[metric] if math.isnan(value) else value


def _summarise(scores: Sequence[Score], metric: Metric, subjects: Mapping[str, str]) -> MetricResult:
    def interval(by_subject: Mapping[str, float]) -> Interval:
        return mean_interval(list(by_subject.values()), limits=LIMITS[metric], seed=SEED)

    by_case: dict[str, dict[int, float]] = {}
    by_label: dict[int, dict[str, float]] = {}
    for score in scores:
        value = metric_value(score, metric)
        by_case.setdefault(score.case, {})[score.label] = value
        if not math.isnan(value):
            by_label.setdefault(score.label, {})[score.case] = value
    present = {case: value for case, value in case_means(by_case).items() if not math.isnan(value)}
    labels = {label: subject_means(values, subjects) for label, values in by_label.items()}
    return MetricResult(
        cases=present,
        scores={
            case: {label: None if math.isnan(value) else value for label, value in values.items()}
            for case, values in by_case.items()
        },
        mean=interval(subject_means(present, subjects)),
        labels={label: interval(values) for label, values in labels.items() if len(values) > 1},
    )


def _mean(values: Sequence[float]) -> float:
    present, _ = defined(values)
    return sum(present) / len(present) if present else math.nan

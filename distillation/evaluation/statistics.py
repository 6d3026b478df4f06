"""From scores to means with intervals, and paired comparisons of two networks on the same cases."""

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

AGREEMENT: dict[Metric, float] = {"dice": 1.0, "nsd": 1.0, "hd95_mm": 0.0}
"""What two segmentations without a label score where they are compared with ones that have it."""


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One network by one metric.

    Attributes:
        cases: mean over the labels of each case; labels in neither segmentation, and cases without any, are left out.
        scores: by case and label, as they count in means; None if the label is in neither segmentation.
        mean: over cases.
        labels: by label value, over the cases where it is defined; a label with one such case has no interval and is
            left out.
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
        label_cases: by label value, in how many cases it is defined.
        undefined: number of case-label pairs where the label is in neither segmentation; they are left out.
        replaced: number of pairs where it is in one of them only: Dice and NSD are 0, and the infinite HD95 counts as
            the diagonal of the image.
        seconds: median wall time of a case.
    """

    model: str
    metrics: dict[Metric, MetricResult]
    label_cases: dict[int, int]
    undefined: int
    replaced: int
    seconds: float

    @property
    def case_count(self) -> int:
        """Cases with at least one label."""
        return len(self.metrics["dice"].cases)

    def mean(self, metric: Metric) -> float:
        """Return the mean over cases."""
        return self.metrics[metric].mean.mean


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two networks on the same cases, by one metric.

    Attributes:
        better: name of the network that should be better (distilled).
        baseline: name of the one it is compared with (plain).
        metric: what is compared.
        difference: mean of the paired differences of the cases, better - baseline, in the metric's unit.
        improved: number of cases that are better.
        worsened: number of cases that are worse; the others are equal.
        rank_sum: of the ranks that the test gives the cases, those of better ones minus those of worse ones: positive
            where the test speaks for the better network, whatever the sign of the metric.
        p_value: Wilcoxon signed-rank test, two-sided, zeros by Pratt's method.
        p_holm: the p value adjusted by Holm's method over all comparisons by this metric.
        recovered: (better - baseline) / (teacher - baseline) of the means over what can be compared of all three, the
            share of the lost accuracy that is won back; None if the baseline does not lose anything.
    """

    better: str
    baseline: str
    metric: Metric
    difference: Interval
    improved: int
    worsened: int
    rank_sum: float
    p_value: float
    p_holm: float
    recovered: float | None

    @property
    def gain(self) -> float:
        """The mean difference, positive if it is for the better."""
        return -self.difference.mean if self.metric in LOWER_IS_BETTER else self.difference.mean


def summarise(model: str, scores: Iterable[Score]) -> ModelResult:
    """Return the result of one network.

    Raises:
        InvalidSettingsError: fewer than two cases have a label.
    """
    own = [score for score in scores if score.model == model]
    by_label: dict[int, list[float]] = {}
    for score in own:
        by_label.setdefault(score.label, []).append(score.dice)
    return ModelResult(
        model=model,
        metrics={metric: _summarise(own, metric) for metric in METRICS},
        label_cases={label: len(defined(values)[0]) for label, values in by_label.items()},
        undefined=sum(math.isnan(score.dice) for score in own),
        replaced=sum(math.isinf(score.hd95_mm) for score in own),
        seconds=float(np.median([score.seconds for score in own])),
    )


def compare_all(
    pairs: Sequence[tuple[str, str]], results: Mapping[str, ModelResult], teacher: ModelResult | None
) -> tuple[Comparison, ...]:
    """Compare networks, paired by case, by every metric; p values are adjusted over all pairs, metric by metric.

    Args:
        pairs: names of the better network and of the baseline.
        results: by name.
        teacher: None if it was not evaluated; there is no recovered loss then.

    Raises:
        InvalidSettingsError: two networks were not evaluated on the same cases.
    """
    found: list[Comparison] = []
    for metric in METRICS:
        raw = [compare(results[better], results[baseline], teacher, metric) for better, baseline in pairs]
        adjusted = holm([each.p_value for each in raw])
        found += [replace(each, p_holm=p_value) for each, p_value in zip(raw, adjusted, strict=True)]
    return tuple(found)


def compare(better: ModelResult, baseline: ModelResult, teacher: ModelResult | None, metric: Metric) -> Comparison:
    """Compare two networks, paired by case; the p value is that of a single comparison.

    Raises:
        InvalidSettingsError: they were not evaluated on the same cases.
    """
    from scipy.stats import rankdata, wilcoxon

    differences = list(paired_differences(better, baseline, metric).values())
    gains = [-each if metric in LOWER_IS_BETTER else each for each in differences]
    p_value = float(wilcoxon(differences, zero_method="pratt").pvalue) if any(differences) else 1.0
    return Comparison(
        better=better.model,
        baseline=baseline.model,
        metric=metric,
        difference=mean_interval(differences, seed=SEED),
        improved=sum(gain > 0 for gain in gains),
        worsened=sum(gain < 0 for gain in gains),
        rank_sum=float(np.dot(np.sign(gains), rankdata(np.abs(gains)))),
        p_value=p_value,
        p_holm=p_value,
        recovered=None if teacher is None else _recovered(better, baseline, teacher, metric),
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
    """Return better - baseline by case, each the mean over the labels that :func:`paired` has.

    Raises:
        InvalidSettingsError: the networks were not evaluated on the same cases and labels.
    """
    new, old = (case_means(table) for table in paired(metric, better, baseline))
    return {case: new[case] - old[case] for case in new}


def case_means(table: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Return the mean over the labels of every case."""
    return {case: _mean(list(labels.values())) for case, labels in table.items()}


def _recovered(better: ModelResult, baseline: ModelResult, teacher: ModelResult, metric: Metric) -> float | None:
    best, new, old = (_mean(list(case_means(table).values())) for table in paired(metric, teacher, better, baseline))
    lost = best - old
    loses = lost < 0 if metric in LOWER_IS_BETTER else lost > 0
    return (new - old) / lost if loses else None


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


def _summarise(scores: Sequence[Score], metric: Metric) -> MetricResult:
    by_case: dict[str, dict[int, float]] = {}
    by_label: dict[int, list[float]] = {}
    for score in scores:
        value = metric_value(score, metric)
        by_case.setdefault(score.case, {})[score.label] = value
        by_label.setdefault(score.label, []).append(value)
    cases = case_means(by_case)
    present = {case: value for case, value in cases.items() if not math.isnan(value)}
    labels = {label: defined(values)[0] for label, values in by_label.items()}
    return MetricResult(
        cases=present,
        scores={
            case: {label: None if math.isnan(value) else value for label, value in values.items()}
            for case, values in by_case.items()
        },
        mean=mean_interval(list(present.values()), seed=SEED),
        labels={label: mean_interval(values, seed=SEED) for label, values in labels.items() if len(values) > 1},
    )


def _mean(values: Sequence[float]) -> float:
    present, _ = defined(values)
    return sum(present) / len(present) if present else math.nan

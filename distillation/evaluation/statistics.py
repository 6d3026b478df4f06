"""From case scores to means with intervals, and paired comparisons of two networks on the same cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from KDSegmentatorLib.analysis.overlap import defined, mean_interval
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.packs.manifest import Evaluation, Interval, LabelScore

if TYPE_CHECKING:
    from distillation.evaluation.scores import Score

SEED = 0
"""Of every bootstrap."""


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One network on all cases.

    Attributes:
        model: its name.
        case_dice: mean Dice over the labels of each case; cases without any label are left out.
        mean: over cases.
        labels: by label value, over the cases where it is defined.
        undefined: number of case-label pairs where the label is in neither segmentation.
        seconds: median wall time of a case.
    """

    model: str
    case_dice: dict[str, float]
    mean: Interval
    labels: dict[int, Interval]
    undefined: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two networks on the same cases.

    Attributes:
        better: name of the network that should be better (distilled).
        baseline: name of the one it is compared with (plain).
        difference: mean of the paired differences of case Dice.
        p_value: Wilcoxon signed-rank test, two-sided, zeros by Pratt's method.
        recovered: (better - baseline) / (teacher - baseline) of the means, the share of the lost accuracy that is won
            back; None if the baseline does not lose anything.
    """

    better: str
    baseline: str
    difference: Interval
    p_value: float
    recovered: float | None


def summarise(model: str, scores: Iterable[Score]) -> ModelResult:
    """Return the result of one network.

    Raises:
        InvalidSettingsError: fewer than two cases have a label.
    """
    own = [score for score in scores if score.model == model]
    by_case: dict[str, list[float]] = {}
    by_label: dict[int, list[float]] = {}
    for score in own:
        by_case.setdefault(score.case, []).append(score.dice)
        by_label.setdefault(score.label, []).append(score.dice)
    case_dice = {case: _mean(values) for case, values in by_case.items()}
    present = {case: value for case, value in case_dice.items() if not math.isnan(value)}
    labels = {label: defined(values)[0] for label, values in by_label.items()}
    return ModelResult(
        model=model,
        case_dice=present,
        mean=mean_interval(list(present.values()), seed=SEED),
        labels={label: mean_interval(values, seed=SEED) for label, values in labels.items() if len(values) > 1},
        undefined=sum(math.isnan(score.dice) for score in own),
        seconds=float(np.median([score.seconds for score in own])),
    )


def compare(better: ModelResult, baseline: ModelResult, teacher: ModelResult | None) -> Comparison:
    """Compare two networks, paired by case.

    Raises:
        InvalidSettingsError: they were not evaluated on the same cases.
    """
    from scipy.stats import wilcoxon

    if better.case_dice.keys() != baseline.case_dice.keys():
        raise InvalidSettingsError(f"{better.model} and {baseline.model} were not evaluated on the same cases")
    cases = sorted(better.case_dice)
    differences = [better.case_dice[case] - baseline.case_dice[case] for case in cases]
    equal = not any(differences)
    lost = teacher.mean.mean - baseline.mean.mean if teacher is not None else 0.0
    return Comparison(
        better=better.model,
        baseline=baseline.model,
        difference=mean_interval(differences, seed=SEED),
        p_value=1.0 if equal else float(wilcoxon(differences, zero_method="pratt").pvalue),
        recovered=(better.mean.mean - baseline.mean.mean) / lost if lost > 0 else None,
    )


def to_evaluation(
    result: ModelResult, *, dataset: str, split: str, mirroring: bool, teacher: ModelResult | None
) -> Evaluation:
    """Return a result in the form that a pack's manifest holds."""
    return Evaluation(
        dataset=dataset,
        split=split,
        cases=len(result.case_dice),
        mirroring=mirroring,
        mean_dice=_rounded(result.mean),
        labels=tuple(LabelScore(value=label, dice=_rounded(dice)) for label, dice in sorted(result.labels.items())),
        teacher_mean_dice=None if teacher is None else round(teacher.mean.mean, 6),
    )


def _mean(values: Sequence[float]) -> float:
    present, _ = defined(values)
    return sum(present) / len(present) if present else math.nan


def _rounded(interval: Interval) -> Interval:
    return Interval(mean=round(interval.mean, 6), low=round(interval.low, 6), high=round(interval.high, 6))

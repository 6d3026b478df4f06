"""Sentences that say what the figures say: where distillation helps, where it does not, and what is left out."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from distillation.evaluation.paired_statistics import LOWER_IS_BETTER, METRIC_TITLES, paired, subject_means
from distillation.evaluation.tables import DIGITS, empty_text, failed_text, interval_text, unit
from distillation.report.task_results import TEACHER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.evaluation.paired_statistics import Comparison, ModelResult
    from distillation.report.task_results import TaskResults

SIGNIFICANT = 0.05


def verdicts(results: TaskResults) -> list[str]:
    """Return sentences that say where distillation helps, where it does not, and how much is left out or replaced."""
    joined = results.joined()
    comparisons = results.comparisons()
    sentences = [_verdict(each, unit(joined.values())) for each in comparisons]
    failed = failed_text(joined.get(TEACHER), results.labels)
    sentences += [failed] if failed else []
    sentences += _nothing_lost(comparisons)
    for result in joined.values():
        if result.undefined or result.replaced:
            sentences.append(empty_text(result) + (" Counted over all seeds." if len(results.seeds) > 1 else ""))
    sentences += _label_losses(results, joined, comparisons)
    return sentences


def _verdict(found: Comparison, over: str) -> str:
    digits = DIGITS[found.metric]
    title = METRIC_TITLES[found.metric].removesuffix(" (mm)")
    amount = f"{found.difference.mean:+.{digits}f}{' mm' if found.metric == 'hd95_mm' else ''}"
    if found.p_holm is None:
        return (
            f"{found.better} against {found.baseline} by {title}: {amount} ({found.improved} better, {found.worsened} "
            f"worse), not tested: n = {found.pairs} {over} is too small for a test."
        )
    test = f"p = {found.p_holm:.2g} after Holm"
    if found.p_holm >= SIGNIFICANT:
        return f"{found.better}: no difference in {title} from {found.baseline} was shown ({amount}, {test})."
    of_means = found.seeds > 1  # a test of ranks may speak against the mean
    if found.gain > 0 and (of_means or found.rank_sum > 0):
        return f"{found.better} is better than {found.baseline} by {title} ({amount}, {test})."
    if found.gain < 0 and (of_means or found.rank_sum < 0):
        return (
            f"{found.better} is WORSE than {found.baseline} by {title} ({amount}, {test}): distillation does not help."
        )
    return _mixed_verdict(found, over, title, amount, test)


def _mixed_verdict(found: Comparison, over: str, title: str, amount: str, test: str) -> str:
    """Say what is known where ranks and mean disagree: a test of ranks does not see by how much a case fails."""
    better, worse = found.improved, found.worsened
    if found.rank_sum > 0:
        cases = f"{f'most {over} are' if better > worse else f'by the ranks of its {over} it is'} better"
        mean, others = "worse", worse
    else:
        cases = f"{f'most {over} are' if worse > better else f'by the ranks of its {over} it is'} WORSE"
        mean, others = "better", better
    if not found.gain:
        mean = "no other"
    return (
        f"{found.better} against {found.baseline} by {title}: {cases} ({better} better, {worse} worse, {test}), the "
        f"mean is {mean} because of {others} {over.removesuffix('s') if others == 1 else over} ({amount}): no verdict."
    )


def _nothing_lost(comparisons: Sequence[Comparison]) -> list[str]:
    """Name the plain students of which no loss against the teacher was shown: there is nothing to win back."""
    sentences = []
    for found in {(each.baseline, each.metric): each for each in comparisons}.values():
        gap = found.gap
        if gap is None or any(each.recovered is not None for each in comparisons if _same_baseline(each, found)):
            continue
        title = METRIC_TITLES[found.metric].removesuffix(" (mm)")
        amount = interval_text(gap, found.metric, signed=True)
        above = gap.low > 0 if found.metric in LOWER_IS_BETTER else gap.high < 0
        if above or gap.low == gap.high == 0:
            sentences.append(
                f"{found.baseline} is not below {TEACHER} by {title} ({amount}): nothing is left to recover."
            )
        else:
            sentences.append(
                f"No loss of {found.baseline} against {TEACHER} was shown by {title} (teacher - plain {amount}): "
                "shares of it are not stated."
            )
    return sentences


def _same_baseline(one: Comparison, other: Comparison) -> bool:
    return (one.baseline, one.metric) == (other.baseline, other.metric)


def _label_losses(results: TaskResults, joined: dict[str, ModelResult], comparisons: Sequence[Comparison]) -> list[str]:
    """Name the structures whose mean Dice is lower with distillation than without, as far as tables show it."""
    sentences = []
    pairs = {(found.better, found.baseline) for found in comparisons}
    for better, baseline in sorted(pairs, key=lambda pair: results.models.index(pair[0])):
        new, old = paired("dice", joined[better], joined[baseline])
        worse = []
        for value, name in results.labels.items():
            by_case = {case: new[case][value] - old[case][value] for case in new if value in new[case]}
            differences = subject_means(by_case, joined[better].subjects).values()
            if differences and round(fmean(differences), DIGITS["dice"]) < 0:
                worse.append(f"{name} ({fmean(differences):+.{DIGITS['dice']}f})")
        if worse:
            sentences.append(f"{better} has a lower mean Dice than {baseline} in: {', '.join(worse)} (not tested).")
    return sentences

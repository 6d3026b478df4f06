import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from distillation.evaluation.scores import Score
from distillation.evaluation.statistics import compare, summarise, to_evaluation
from KDSegmentatorLib.errors import InvalidSettingsError


def scores(model, table, seconds=1.0):
    """Rows from {case: (dice of label 1, dice of label 2)}."""
    return [
        Score(model=model, pack_hash="h", mirroring=False, case=case, label=label, dice=dice, seconds=seconds)
        for case, values in table.items()
        for label, dice in enumerate(values, start=1)
    ]


def constant_shift(base, shift):
    return {case: tuple(value + shift for value in values) for case, values in base.items()}


@pytest.fixture
def base():
    random = np.random.default_rng(1)
    return {f"c{n}": tuple(random.uniform(0.6, 0.8, 2)) for n in range(12)}


def test_means_by_case_and_label():
    result = summarise("m", scores("m", {"a": (0.5, 0.7), "b": (0.9, 0.9)}) + scores("other", {"a": (0, 0)}))
    assert result.case_dice == {"a": pytest.approx(0.6), "b": pytest.approx(0.9)}
    assert result.mean.mean == pytest.approx(0.75)
    assert result.mean.low <= 0.75 <= result.mean.high
    assert result.labels[1].mean == pytest.approx(0.7)
    assert result.labels[2].mean == pytest.approx(0.8)
    assert result.undefined == 0


def test_undefined_scores_are_left_out_and_counted():
    table = {"a": (0.5, math.nan), "b": (0.7, 0.9), "c": (math.nan, math.nan), "d": (0.6, 0.8)}
    result = summarise("m", scores("m", table))
    assert set(result.case_dice) == {"a", "b", "d"}
    assert result.case_dice["a"] == 0.5
    assert result.undefined == 3
    assert result.labels[2].mean == pytest.approx(0.85)


def test_a_label_in_one_case_only_has_no_interval():
    result = summarise("m", scores("m", {"a": (0.5, math.nan), "b": (0.7, 0.9)}))
    assert list(result.labels) == [1]


def test_too_few_cases():
    with pytest.raises(InvalidSettingsError, match="two cases"):
        summarise("m", scores("m", {"a": (0.5, 0.6)}))


def test_comparison_of_a_constant_gain(base):
    plain = summarise("plain", scores("plain", base))
    logit = summarise("logit", scores("logit", constant_shift(base, 0.02)))
    teacher = summarise("teacher", scores("teacher", constant_shift(base, 0.05)))
    found = compare(logit, plain, teacher)
    assert found.difference.mean == pytest.approx(0.02)
    assert found.recovered == pytest.approx(0.4)
    assert found.p_value < 0.01


def test_wilcoxon_is_scipys_with_pratt(base):
    from scipy.stats import wilcoxon

    other = {case: (values[0] + 0.03 * (n % 3 - 1), values[1]) for n, (case, values) in enumerate(base.items())}
    first, second = summarise("a", scores("a", other)), summarise("b", scores("b", base))
    differences = [first.case_dice[case] - second.case_dice[case] for case in sorted(base)]
    assert compare(first, second, None).p_value == wilcoxon(differences, zero_method="pratt").pvalue


def test_no_difference_at_all(base):
    plain = summarise("plain", scores("plain", base))
    found = compare(plain, plain, plain)
    assert (found.difference.mean, found.p_value, found.recovered) == (0, 1, None)


def test_no_recovered_loss_where_nothing_was_lost(base):
    plain = summarise("plain", scores("plain", base))
    worse = summarise("teacher", scores("teacher", constant_shift(base, -0.1)))
    assert compare(plain, plain, worse).recovered is None
    assert compare(plain, plain, None).recovered is None


def test_only_the_same_cases_can_be_compared(base):
    fewer = {case: base[case] for case in list(base)[1:]}
    with pytest.raises(InvalidSettingsError, match="same cases"):
        compare(summarise("a", scores("a", base)), summarise("b", scores("b", fewer)), None)


def test_the_same_scores_give_the_same_intervals(base):
    assert summarise("m", scores("m", base)) == summarise("m", scores("m", base))


def test_manifest_form(base):
    result = summarise("m", scores("m", base))
    found = to_evaluation(result, dataset="D", split="S", mirroring=False, teacher=result)
    assert found.cases == 12
    assert found.mean_dice.mean == pytest.approx(result.mean.mean, abs=1e-6)
    assert [label.value for label in found.labels] == [1, 2]
    assert found.teacher_mean_dice == found.mean_dice.mean

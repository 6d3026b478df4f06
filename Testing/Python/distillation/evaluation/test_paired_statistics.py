import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.evaluation.pack_evaluation import to_evaluation
from distillation.evaluation.paired_statistics import (
    METRICS,
    compare,
    compare_all,
    crossed,
    failed_labels,
    holm,
    paired,
    paired_differences,
    summarise,
)
from distillation.evaluation.scores import SurfaceSettings
from KDSegmentatorLib.errors import InvalidSettingsError
from support.scores import score


def scores(model, table, seconds=1.0):
    """Rows from {case: (dice of label 1, dice of label 2)}."""
    return [
        score(model=model, case=case, label=label, dice=dice, seconds=seconds)
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
    assert result.metrics["dice"].cases == {"a": pytest.approx(0.6), "b": pytest.approx(0.9)}
    assert result.mean("dice") == pytest.approx(0.75)
    assert result.metrics["dice"].mean.low <= 0.75 <= result.metrics["dice"].mean.high
    assert result.metrics["dice"].labels[1].mean == pytest.approx(0.7)
    assert result.metrics["dice"].labels[2].mean == pytest.approx(0.8)
    assert result.undefined == 0


def test_undefined_scores_are_left_out_and_counted():
    table = {"a": (0.5, math.nan), "b": (0.7, 0.9), "c": (math.nan, math.nan), "d": (0.6, 0.8)}
    result = summarise("m", scores("m", table))
    assert set(result.metrics["dice"].cases) == {"a", "b", "d"}
    assert result.metrics["dice"].cases["a"] == 0.5
    assert result.undefined == 3
    assert result.metrics["dice"].labels[2].mean == pytest.approx(0.85)


def test_a_label_in_one_case_only_has_no_interval():
    result = summarise("m", scores("m", {"a": (0.5, math.nan), "b": (0.7, 0.9)}))
    assert list(result.metrics["dice"].labels) == [1]


def test_too_few_cases():
    with pytest.raises(InvalidSettingsError, match="two cases"):
        summarise("m", scores("m", {"a": (0.5, 0.6)}))


def test_comparison_of_a_constant_gain(base):
    plain = summarise("plain", scores("plain", base))
    logit = summarise("logit", scores("logit", constant_shift(base, 0.02)))
    teacher = summarise("teacher", scores("teacher", constant_shift(base, 0.05)))
    found = compare(logit, plain, teacher, "dice")
    assert found.difference.mean == pytest.approx(0.02)
    assert found.recovered == pytest.approx(0.4)
    assert found.p_value < 0.01


def test_wilcoxon_is_scipys_with_pratt(base):
    from scipy.stats import wilcoxon

    other = {case: (values[0] + 0.03 * (n % 3 - 1), values[1]) for n, (case, values) in enumerate(base.items())}
    first, second = summarise("a", scores("a", other)), summarise("b", scores("b", base))
    differences = [first.metrics["dice"].cases[case] - second.metrics["dice"].cases[case] for case in sorted(base)]
    assert compare(first, second, None, "dice").p_value == wilcoxon(differences, zero_method="pratt").pvalue


def rescanned(table, times=3):
    """Each subject of a table several times over, and whom each case shows."""
    cases = {f"{name}-{n}": values for name, values in table.items() for n in range(times)}  # sorted as the names are
    return cases, {case: case.rpartition("-")[0] for case in cases}


def test_more_images_of_a_subject_are_not_more_subjects(base):
    random = np.random.default_rng(5)
    other = {case: tuple(value + random.normal(0.01, 0.02) for value in values) for case, values in base.items()}
    tables = {"logit": other, "plain": base, "teacher": constant_shift(base, 0.05)}
    alone = [summarise(name, scores(name, table)) for name, table in tables.items()]
    many = []
    for name, table in tables.items():
        cases, subjects = rescanned(table)
        many.append(summarise(name, scores(name, cases), subjects))
    assert [(each.case_count, each.subject_count) for each in (*alone, *many)] == [(12, 12)] * 3 + [(36, 12)] * 3
    for one, several in zip(alone, many, strict=True):
        for metric in METRICS:
            expected, found = one.metrics[metric], several.metrics[metric]
            for interval, other_interval in ((expected.mean, found.mean), (expected.labels[1], found.labels[1])):
                # 36 independent cases would give 0.6 of the width; a sum in another order gives next to the same
                assert vars(other_interval) == pytest.approx(vars(interval), abs=5e-3)
        assert several.label_subjects == one.label_subjects
    for metric in METRICS:
        one, several = compare(*alone, metric), compare(*many, metric)
        assert (several.pairs, several.improved, several.worsened) == (one.pairs, one.improved, one.worsened)
        assert several.p_value == pytest.approx(one.p_value)
        assert vars(several.difference) == pytest.approx(vars(one.difference), abs=5e-3)
        assert several.recovered == pytest.approx(one.recovered)


def test_a_subject_counts_once_however_often_it_was_scanned():
    """Subject a has three images, the third without label 2; b has one."""
    nan = math.nan
    table = {"a0": (0.5, 0.7), "a1": (0.7, 0.9), "a2": (0.6, nan), "b": (0.9, 0.5)}
    result = summarise("m", scores("m", table), {"a0": "a", "a1": "a", "a2": "a"})
    assert result.mean("dice") == pytest.approx(((0.6 + 0.8 + 0.6) / 3 + 0.7) / 2)
    assert result.metrics["dice"].labels[1].mean == pytest.approx((0.6 + 0.9) / 2)
    assert result.metrics["dice"].labels[2].mean == pytest.approx((0.8 + 0.5) / 2)
    assert result.label_subjects == {1: 2, 2: 2}
    assert result.subjects == {"a0": "a", "a1": "a", "a2": "a", "b": "b"}
    better = {case: (values[0] + 0.1 * (case != "b"), values[1]) for case, values in table.items()}
    found = paired_differences(summarise("n", scores("n", better), result.subjects), result, "dice")
    assert found == pytest.approx({"a": (0.05 + 0.05 + 0.1) / 3, "b": 0})


def test_images_of_one_subject_have_no_interval():
    with pytest.raises(InvalidSettingsError, match="different subjects, got 1"):
        summarise("m", scores("m", {"a0": (0.5, 0.6), "a1": (0.6, 0.7)}), {"a0": "a", "a1": "a"})
    several = {"a0": (0.5, 0.6), "a1": (0.6, 0.7), "b": (0.6, math.nan)}
    assert list(summarise("m", scores("m", several), {"a0": "a", "a1": "a"}).metrics["dice"].labels) == [1]


@pytest.mark.parametrize("count", [2, 5, 6])
def test_fewer_than_six_pairs_are_not_tested(base, count):
    cases, subjects = rescanned(dict(list(base.items())[:count]), times=13)
    random = np.random.default_rng(4)
    gained = {case: tuple(value + random.uniform(0.01, 0.02) for value in values) for case, values in cases.items()}
    results = {
        name: summarise(name, scores(name, table), subjects) for name, table in (("plain", cases), ("logit", gained))
    }
    results["reco"] = summarise("reco", scores("reco", constant_shift(cases, 0.03)), subjects)
    found = compare_all([("logit", "plain"), ("reco", "plain")], results, None)
    for each in found:
        assert each.pairs == each.improved == count
        if count < 6:
            assert (each.p_value, each.p_holm) == (None, None)
        else:
            assert (each.p_value, each.p_holm) == (2 / 2**6, 2 * 2 / 2**6)


def test_pairs_that_are_equal_do_not_make_a_few_others_significant():
    """SciPy's approximation gives 0.046 for 4 of 42; no choice of signs of four pairs is rarer than 1 in 8."""
    table = {f"c{n:02d}": (0.6, 0.7) for n in range(42)}
    changed = {case: (0.6 + (0.01 + 0.001 * n if n < 4 else 0), 0.7) for n, (case, _) in enumerate(table.items())}
    first, second = summarise("a", scores("a", changed)), summarise("b", scores("b", table))
    assert compare(first, second, None, "dice").p_value == 0.125


def test_no_difference_at_all(base):
    plain = summarise("plain", scores("plain", base))
    found = compare(plain, plain, plain, "dice")
    assert (found.difference.mean, found.p_value, found.recovered) == (0, 1, None)


def test_no_recovered_loss_where_nothing_was_lost(base):
    plain = summarise("plain", scores("plain", base))
    worse = summarise("teacher", scores("teacher", constant_shift(base, -0.1)))
    assert compare(plain, plain, worse, "dice").recovered is None
    assert compare(plain, plain, None, "dice").recovered is None


def test_no_share_of_a_gap_that_may_be_none(base):
    """A gap of 0.001 among noise of 0.02: a share of it could be anything, as -1515 % was."""
    random = np.random.default_rng(0)
    plain = summarise("plain", scores("plain", base))
    kd = summarise("kd", scores("kd", constant_shift(base, -0.015)))
    noisy = {case: tuple(value + random.normal(0.001, 0.02) for value in values) for case, values in base.items()}
    found = compare(kd, plain, summarise("teacher", scores("teacher", noisy)), "dice")
    assert found.gap.low < 0 < found.gap.high
    assert found.recovered is None


def test_a_structure_that_the_teacher_fails_does_not_decide(base):
    """The teacher is better by 0.05 in label 1 and never learnt label 2."""
    teacher = summarise("teacher", scores("teacher", {case: (first + 0.05, 0.05) for case, (first, _) in base.items()}))
    plain = summarise("plain", scores("plain", base))
    kd = summarise("kd", scores("kd", {case: (first + 0.02, second) for case, (first, second) in base.items()}))
    assert failed_labels(teacher) == (2,)
    assert failed_labels(plain) == ()
    found = compare(kd, plain, teacher, "dice")
    assert found.gap.mean == pytest.approx(0.05)
    assert found.recovered == pytest.approx(0.4)
    assert found.difference.mean == pytest.approx(0.01)  # over both


def test_neither_seeds_nor_cases_alone_show_a_difference():
    """Of no difference at all, one test in twenty may find one, whichever of both varies more."""
    random = np.random.default_rng(0)
    for of_seed, of_case in ((1.0, 0.2), (0.2, 1.0), (0.5, 0.5)):
        found = []
        for _ in range(400):
            seeds, cases = random.normal(0, of_seed, (3, 1)), random.normal(0, of_case, (1, 15))
            found.append(crossed(seeds + cases + random.normal(0, 0.2, (3, 15)))[1])
        assert np.mean(np.array(found) < 0.05) < 0.08


def test_seeds_that_agree_show_what_cases_show():
    """Where seeds do not differ, the test is the paired t test over cases."""
    from scipy.stats import ttest_1samp

    cases = np.random.default_rng(0).normal(0.02, 0.03, 20)
    interval, p_value = crossed([cases, cases, cases])
    expected = ttest_1samp(cases, 0)
    assert p_value == pytest.approx(expected.pvalue)
    assert interval.low == pytest.approx(expected.confidence_interval().low)


def test_a_difference_of_nothing_and_a_constant_one():
    assert crossed([[0.0] * 4] * 2)[1] == 1.0
    interval, p_value = crossed([[0.1] * 4] * 2)
    assert (interval.low, interval.high, p_value) == (pytest.approx(0.1), pytest.approx(0.1), 0.0)


def test_only_the_same_cases_can_be_compared(base):
    fewer = {case: base[case] for case in list(base)[1:]}
    with pytest.raises(InvalidSettingsError, match="same cases"):
        compare(summarise("a", scores("a", base)), summarise("b", scores("b", fewer)), None, "dice")


def test_what_one_network_finds_where_nothing_is_counts_against_it(base):
    """Case e has no label at all: plain finds label 1 falsely, logit and the teacher find nothing."""
    nan = math.nan
    plain = summarise("plain", scores("plain", {**base, "e": (0.0, nan), "f": (nan, nan)}))
    logit = summarise("logit", scores("logit", {**constant_shift(base, 0.02), "e": (nan, nan), "f": (nan, nan)}))
    teacher = summarise("teacher", scores("teacher", {**constant_shift(base, 0.05), "e": (nan, nan), "f": (nan, nan)}))
    assert (plain.case_count, logit.case_count) == (13, 12)
    for metric, gain, empty in (("dice", 0.02, 1.0), ("nsd", 0.02, 1.0), ("hd95_mm", -0.2, -50.0)):
        differences = paired_differences(logit, plain, metric)
        assert differences == pytest.approx({**dict.fromkeys(base, gain), "e": empty})
        assert paired_differences(plain, logit, metric) == {case: -value for case, value in differences.items()}
        found = compare(logit, plain, teacher, metric)
        assert found.difference.mean == pytest.approx((12 * gain + empty) / 13)
        # what plain loses there, the distilled student does not lose
        assert found.recovered == pytest.approx((12 * gain + empty) / (12 * 2.5 * gain + empty))
    first, second = paired("dice", logit, plain)
    assert (first["e"], second["e"]) == ({1: 1.0}, {1: 0.0})
    assert "f" not in first


def test_a_label_counts_for_both_or_for_neither():
    nan = math.nan
    first = summarise("a", scores("a", {"c": (0.5, nan), "d": (0.6, 0.8), "e": (0.6, nan)}))
    second = summarise("b", scores("b", {"c": (0.5, 0.0), "d": (0.6, 0.8), "e": (0.7, nan)}))
    assert paired_differences(first, second, "dice") == pytest.approx({"c": 0.5, "d": 0, "e": -0.1})


def test_the_same_scores_give_the_same_intervals(base):
    assert summarise("m", scores("m", base)) == summarise("m", scores("m", base))


def test_an_infinite_hd95_counts_as_the_diagonal_and_is_counted():
    rows = scores("m", {"a": (0.5, 0.0), "b": (0.7, 0.9)})
    result = summarise("m", rows)
    assert result.metrics["hd95_mm"].cases == {"a": pytest.approx((5 + 50) / 2), "b": pytest.approx(2)}
    assert result.metrics["hd95_mm"].labels[2].mean == pytest.approx((50 + 1) / 2)
    assert (result.replaced, result.undefined) == (1, 0)
    assert result.label_subjects == {1: 2, 2: 2}


def test_a_fall_of_hd95_is_a_gain_and_recovers_loss(base):
    plain = summarise("plain", scores("plain", base))
    logit = summarise("logit", scores("logit", constant_shift(base, 0.02)))
    teacher = summarise("teacher", scores("teacher", constant_shift(base, 0.05)))
    found = compare(logit, plain, teacher, "hd95_mm")
    assert found.difference.mean == pytest.approx(-0.2)
    assert found.gain == pytest.approx(0.2)
    assert found.recovered == pytest.approx(0.4)


def test_p_values_are_adjusted_metric_by_metric(base):
    random = np.random.default_rng(2)
    results = {"plain": summarise("plain", scores("plain", base))}
    for name, shift in (("logit", 0.0), ("reco", 0.01)):
        table = {case: tuple(value + shift + random.normal(0, 0.02) for value in pair) for case, pair in base.items()}
        results[name] = summarise(name, scores(name, table))
    found = compare_all([("logit", "plain"), ("reco", "plain")], results, None)
    assert [(each.better, each.metric) for each in found] == [(b, m) for m in METRICS for b in ("logit", "reco")]
    for metric in METRICS:
        own = [each for each in found if each.metric == metric]
        assert [each.p_holm for each in own] == holm([each.p_value for each in own])
    assert any(each.p_holm > each.p_value for each in found)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[n] for n in order] == sorted(adjusted)
    assert adjusted[order[0]] == min(1, len(p_values) * p_values[order[0]])


def test_the_manifest_says_how_few_subjects_there_are(base):
    cases, subjects = rescanned(base)
    result = summarise("m", scores("m", cases), subjects)
    found = to_evaluation(result, dataset="D", split="fold 0", mirroring=False, surface=SurfaceSettings(), teacher=None)
    assert found.split == "fold 0 (36 images of 12 subjects; means and intervals over subjects)"
    assert found.cases == 36
    alone = summarise("m", scores("m", base), dict.fromkeys("xy", "of nobody here"))
    found = to_evaluation(alone, dataset="D", split="fold 0", mirroring=False, surface=SurfaceSettings(), teacher=None)
    assert (found.split, found.cases) == ("fold 0", 12)


def test_manifest_form(base):
    result = summarise("m", scores("m", base))
    teacher = summarise("t", scores("t", constant_shift(base, 0.05)))
    surface = SurfaceSettings(tolerance_mm=2.0, surface="subvoxel")
    found = to_evaluation(result, dataset="D", split="S", mirroring=False, surface=surface, teacher=teacher)
    assert (found.cases, found.nsd_tolerance_mm, found.nsd_surface, found.hd95_replaced) == (12, 2.0, "subvoxel", 0)
    for metric in METRICS:
        assert getattr(found, f"mean_{metric}").mean == pytest.approx(result.mean(metric), abs=1e-6)
        assert getattr(found, f"teacher_mean_{metric}") == pytest.approx(teacher.mean(metric), abs=1e-6)
        for label in found.labels:
            own, teachers = (each.metrics[metric].labels[label.value].mean for each in (result, teacher))
            assert getattr(label, metric).mean == pytest.approx(own, abs=1e-6)
            assert getattr(label, f"teacher_{metric}") == pytest.approx(teachers, abs=1e-6)
    assert [label.value for label in found.labels] == [1, 2]

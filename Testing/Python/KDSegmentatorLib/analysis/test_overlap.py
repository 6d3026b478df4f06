from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from KDSegmentatorLib.analysis.overlap import defined, dice, mean_interval
from KDSegmentatorLib.errors import GeometryError, InvalidSettingsError


def test_dice_by_hand() -> None:
    reference = np.array([[[1, 1, 1, 0, 2, 2]]])
    prediction = np.array([[[0, 1, 1, 1, 2, 0]]])
    assert dice(reference, prediction, [1, 2]) == pytest.approx({1: 2 * 2 / 6, 2: 2 * 1 / 3})


def test_absent_from_both_is_undefined_and_absent_from_one_is_zero() -> None:
    reference = np.array([[[1, 0, 0]]])
    prediction = np.array([[[0, 0, 2]]])
    scores = dice(reference, prediction, [1, 2, 3])
    assert scores[1] == scores[2] == 0
    assert math.isnan(scores[3])
    assert defined(scores.values()) == ([0.0, 0.0], 1)


def test_bad_arguments() -> None:
    with pytest.raises(GeometryError, match="shape"):
        dice(np.zeros((1, 2, 3)), np.zeros((3, 2, 1)), [1])
    with pytest.raises(InvalidSettingsError, match="foreground"):
        dice(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), [0])


def test_interval_holds_the_mean_and_is_reproducible() -> None:
    scores = list(np.random.default_rng(0).beta(9, 1, size=40))
    first, again = mean_interval(scores, seed=3), mean_interval(scores, seed=3)
    assert first == again
    assert first != mean_interval(scores, seed=4)
    assert first.low < first.mean < first.high
    assert first.mean == pytest.approx(np.mean(scores))
    # close to the normal interval for this many cases
    half = 1.96 * np.std(scores, ddof=1) / math.sqrt(40)
    assert first.high - first.low == pytest.approx(2 * half, rel=0.15)
    wide = mean_interval(scores, confidence=0.99, seed=3)
    assert wide.low < first.low and wide.high > first.high


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        interval = mean_interval(list(random.normal(0.8, 0.1, size=30)), resamples=500, seed=trial)
        covered += interval.low <= 0.8 <= interval.high
    assert 85 <= covered <= 100


@pytest.mark.parametrize("count", [2, 3, 5])
def test_interval_of_few_scores_is_students_and_covers_what_it_says(count: int) -> None:
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        scores = random.normal(0.8, 0.1, size=count)
        interval = mean_interval(list(scores))
        expected = ttest_1samp(scores, 0).confidence_interval(0.95)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
        covered += interval.low <= 0.8 <= interval.high
    assert 182 <= covered <= 198  # a bootstrap would hold it in 104 of two, 144 of three


def test_interval_of_few_scores_ends_where_scores_do() -> None:
    wide = mean_interval([0.4, 0.9])
    assert wide.low < 0 and wide.high > 1
    cut = mean_interval([0.4, 0.9], limits=(0, 1))
    assert (cut.low, cut.mean, cut.high) == (0, pytest.approx(0.65), 1)


def test_equal_scores_give_an_interval_of_no_width() -> None:
    interval = mean_interval([0.5, 0.5, 0.5])
    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("scores", [[], [0.5], [0.5, math.nan], [0.5, math.inf]])
def test_scores_without_an_interval(scores: list[float]) -> None:
    with pytest.raises(InvalidSettingsError):
        mean_interval(scores)

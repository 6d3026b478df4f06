"""Overlap of two segmentations, and what can be said about its mean over cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, InvalidSettingsError
from KDSegmentatorLib.packs.manifest import Interval

BOOTSTRAP_RESAMPLES = 9999

FEWEST_FOR_BOOTSTRAP = 6
"""With fewer scores an interval is Student's t. Of normal scores a 95 % bootstrap interval, BCa or percentile, held
the true mean in 52 % of 400 draws of two, 79 % of four and 84 % of five; that of Student's t in 94 to 97 %."""


def dice(reference: npt.NDArray[Any], prediction: npt.NDArray[Any], values: Iterable[int]) -> dict[int, float]:
    """Return Dice = 2 |A and B| / (|A| + |B|) of every label, over voxels.

    A label that is in neither array has no Dice: its score is ``nan``, to be left out of means and counted apart
    (:func:`defined`). A label that is in one of them only scores 0.

    Args:
        reference: label values, (z, y, x).
        prediction: label values of the same shape.
        values: the labels, each > 0.

    Raises:
        GeometryError: the shapes differ.
        InvalidSettingsError: a value is not a foreground label.
    """
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"the reference has shape {reference.shape}, the prediction {prediction.shape}; both must be on one grid"
        )
    scores = {}
    for value in values:
        if value < 1:
            raise InvalidSettingsError(f"Dice is for foreground labels, got {value}")
        in_reference = reference == value
        in_prediction = prediction == value
        total = int(np.count_nonzero(in_reference)) + int(np.count_nonzero(in_prediction))
        common = int(np.count_nonzero(in_reference & in_prediction))
        scores[value] = dice_of_counts(common, total)
    return scores


def dice_of_counts(common: int, total: int) -> float:
    """Return Dice from the voxels that both masks have, and the sum of the voxels of each; nan if there are none."""
    return 2 * common / total if total else math.nan


def defined(scores: Iterable[float]) -> tuple[list[float], int]:
    """Return the scores that exist, and how many do not (label in neither segmentation)."""
    everything = list(scores)
    present = [score for score in everything if not math.isnan(score)]
    return present, len(everything) - len(present)


def mean_interval(
    scores: Sequence[float],
    *,
    confidence: float = 0.95,
    limits: tuple[float, float] = (-math.inf, math.inf),
    resamples: int = BOOTSTRAP_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the mean with its confidence interval: bootstrap (BCa), or Student's t of a few scores.

    Args:
        scores: independent ones, all defined; average those of one subject first.
        confidence: in (0, 1).
        limits: least and largest score there can be; an interval by Student's t is cut there.
        resamples: bootstrap samples.
        seed: of the resampling; the same one gives the same interval.

    Raises:
        InvalidSettingsError: fewer than two scores, or one that is not finite.
    """
    from scipy.stats import bootstrap, sem, t

    sample = np.asarray(scores, dtype=np.float64)
    if sample.size < 2:
        raise InvalidSettingsError(
            f"a confidence interval needs at least two cases of different subjects, got {sample.size}"
        )
    if not np.isfinite(sample).all():
        raise InvalidSettingsError("a score is not finite; leave out undefined scores and count them (see 'defined')")
    mean = float(sample.mean())
    if (sample == sample[0]).all():  # resampling gives the same mean every time, for which BCa is not defined
        return Interval(mean=mean, low=mean, high=mean)
    if sample.size < FEWEST_FOR_BOOTSTRAP:
        low, high = t.interval(confidence, df=sample.size - 1, loc=mean, scale=sem(sample))
        return Interval(mean=mean, low=max(float(low), limits[0]), high=min(float(high), limits[1]))
    result = bootstrap(
        (sample,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa",
        vectorized=True,
        batch=max(1, 1_000_000 // sample.size),
        random_state=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    return Interval(mean=mean, low=low, high=high)

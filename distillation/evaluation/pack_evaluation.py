"""Results in the form that a pack's manifest holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillation.evaluation.tables import grouped, images_text
from KDSegmentatorLib.packs.manifest import Evaluation, Interval, LabelScore

if TYPE_CHECKING:
    from distillation.evaluation.paired_statistics import Metric, ModelResult
    from distillation.evaluation.scores import SurfaceSettings

_DIGITS = 6


def to_evaluation(
    result: ModelResult,
    *,
    dataset: str,
    split: str,
    mirroring: bool,
    surface: SurfaceSettings,
    teacher: ModelResult | None,
) -> Evaluation:
    """Return a result in the form that a pack's manifest holds.

    Args:
        result: of the pack's network.
        dataset: what people call the data.
        split: which part of it the cases are.
        mirroring: whether mirrored windows were averaged.
        surface: how NSD is defined.
        teacher: the teacher's result on the same cases; None if it was not evaluated.
    """
    if grouped([result]):
        split += f" ({images_text(result)}; means and intervals over subjects)"
    mean = {metric: _rounded(each.mean) for metric, each in result.metrics.items()}
    return Evaluation(
        dataset=dataset,
        split=split,
        cases=result.case_count,
        mirroring=mirroring,
        mean_dice=mean["dice"],
        labels=tuple(_label_score(label, result, teacher) for label in sorted(result.metrics["dice"].labels)),
        teacher_mean_dice=_teacher_mean(teacher, "dice"),
        mean_nsd=mean["nsd"],
        mean_hd95_mm=mean["hd95_mm"],
        teacher_mean_nsd=_teacher_mean(teacher, "nsd"),
        teacher_mean_hd95_mm=_teacher_mean(teacher, "hd95_mm"),
        nsd_tolerance_mm=surface.tolerance_mm,
        nsd_surface=surface.surface,
        hd95_replaced=result.replaced,
    )


def _label_score(label: int, result: ModelResult, teacher: ModelResult | None) -> LabelScore:
    def teachers(metric: Metric) -> float | None:
        found = None if teacher is None else teacher.metrics[metric].labels.get(label)
        return None if found is None else round(found.mean, _DIGITS)

    return LabelScore(
        value=label,
        dice=_rounded(result.metrics["dice"].labels[label]),
        nsd=_rounded(result.metrics["nsd"].labels[label]),
        hd95_mm=_rounded(result.metrics["hd95_mm"].labels[label]),
        teacher_dice=teachers("dice"),
        teacher_nsd=teachers("nsd"),
        teacher_hd95_mm=teachers("hd95_mm"),
    )


def _teacher_mean(teacher: ModelResult | None, metric: Metric) -> float | None:
    return None if teacher is None else round(teacher.mean(metric), _DIGITS)


def _rounded(interval: Interval) -> Interval:
    low, mean, high = (round(value, _DIGITS) for value in (interval.low, interval.mean, interval.high))
    return Interval(mean=mean, low=low, high=high)

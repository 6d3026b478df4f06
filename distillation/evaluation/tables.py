"""Results of a family as files: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from distillation.evaluation.paired_statistics import (
    AGREEMENT,
    FAILED_DICE,
    FEWEST_PAIRS,
    METRIC_TITLES,
    METRICS,
    failed_labels,
)
from distillation.evaluation.reduced_precision import LARGEST_LOSS
from KDSegmentatorLib.analysis.overlap import FEWEST_FOR_BOOTSTRAP
from KDSegmentatorLib.io.files import atomic_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any, Literal

    from distillation.evaluation.paired_statistics import Comparison, Metric, ModelResult
    from distillation.evaluation.reduced_precision import ReducedResult
    from distillation.evaluation.scores import SurfaceSettings
    from KDSegmentatorLib.packs.manifest import Interval, Label

DIGITS: dict[Metric, int] = {"dice": 4, "nsd": 4, "hd95_mm": 2}
"""Decimal places in tables."""

INTERVAL_TEXT = f"95 % interval (bootstrap, BCa; Student's t where n < {FEWEST_FOR_BOOTSTRAP})"

RECOVERED_TEXT = (
    "Recovered loss = (distilled - plain) / (teacher - plain) over the structures that the teacher does not fail; '-' "
    "where the interval of teacher - plain includes 0 or says that nothing is lost."
)

AGREEMENT_TEXT = f"Dice and NSD {AGREEMENT['dice']:g}, HD95 {AGREEMENT['hd95_mm']:g} mm"
"""What an undefined score counts as where it has to be compared with a defined one."""


PAIRING_TEXT = (
    "a label that is undefined for both networks is left out, for one network only it counts there as agreement "
    f"({AGREEMENT_TEXT})"
)
"""What is compared of a pair."""


def grouped(results: Iterable[ModelResult]) -> bool:
    """Return whether several cases are of one subject, so that n is the number of subjects."""
    return any(result.subject_count < result.case_count for result in results)


def unit(results: Iterable[ModelResult]) -> Literal["cases", "subjects"]:
    """Return what means, intervals and tests are over."""
    return "subjects" if grouped(results) else "cases"


def pairing(results: Iterable[ModelResult]) -> str:
    """Return how two networks are paired; stands next to every table of differences."""
    return f"paired by case{', averaged by subject' if grouped(results) else ''}; {PAIRING_TEXT}"


def definitions(surface: SurfaceSettings, results: Iterable[ModelResult]) -> str:
    """Return how the metrics and their means are defined, one paragraph; stands next to every table of them."""
    means = "the cases of a subject, then over subjects" if grouped(results) else "cases"
    kind = (
        "surface voxels, as MONAI's default counts them"
        if surface.surface == "voxels"
        else "sub-voxel patches weighted by their area, as Nikolov et al. (arXiv:1809.04430) and MONAI's use_subvoxels"
    )
    return (
        "Dice: 2|A∩B|/(|A|+|B|) over voxels. "
        f"NSD (surface Dice): share of both surfaces within {surface.tolerance_mm:g} mm of the other one; {kind}. "
        "HD95: 95th percentile of the distances from one surface to the other, the larger one of both ways, in mm. "
        f"Means over the labels of a case, then over {means}. A label in neither segmentation has no score and is left "
        "out; one in only one of them has Dice and NSD 0, and its infinite HD95 counts as the diagonal of the image."
    )


def tested(comparisons: Sequence[Comparison]) -> str:
    """Return how differences were tested and their intervals made; stands next to every table of them."""
    seeds = max((each.seeds for each in comparisons), default=1)
    few = f"'-' where n < {FEWEST_PAIRS}, of which no test of ranks reaches p = 0.05"
    if seeds > 1:
        return (
            f"Mean difference with 95 % interval, and p (two-sided t test), over {seeds} seeds x cases, both drawn at "
            f"random (two-way random effects, Satterthwaite's degrees of freedom); {few}"
        )
    return (
        f"Mean difference with {INTERVAL_TEXT}; Wilcoxon signed-rank test, two-sided, zeros by Pratt, p at least 2 / "
        f"2^m of m pairs that differ; {few}. One seed: what another training would give is not in the intervals"
    )


def failed_text(teacher: ModelResult | None, names: Mapping[int, str]) -> str | None:
    """Return a sentence that names the structures that the teacher fails; None if there is none."""
    failed = () if teacher is None else failed_labels(teacher)
    if teacher is None or not failed:
        return None
    labels = teacher.metrics["dice"].labels
    shown = ", ".join(f"{names[label]} ({labels[label].mean:.2f})" for label in failed)
    return (
        f"{teacher.model} fails (mean Dice below {FAILED_DICE}) in: {shown}. These are left out of teacher - plain and "
        "of recovered loss."
    )


def markdown(
    results: Sequence[ModelResult],
    comparisons: Sequence[Comparison],
    *,
    teacher: ModelResult | None,
    title: str,
    labels: Sequence[Label],
    parameters: dict[str, int],
    surface: SurfaceSettings,
    reduced: Sequence[ReducedResult] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return the tables as Markdown.

    Args:
        results: in the order of the rows.
        teacher: one of them; None if it was not evaluated.
        comparisons: distilled against plain.
        title: dataset and split, one line.
        labels: for the names of the rows.
        parameters: number of parameters by model name.
        surface: how NSD is defined.
        reduced: the models in reduced precisions.
        notes: sentences that follow the tables.
    """
    titles = [METRIC_TITLES[metric] for metric in METRICS]
    lines = [
        f"### {title}",
        "",
        f"{cases_text(results)}; each mean with its {INTERVAL_TEXT}. {definitions(surface, results)}",
        "",
        row("Model", "Parameters", *(f"Mean {each}" for each in titles), "% of teacher's Dice", "Median s a case"),
        row("---", "---:", *["---"] * len(titles), "---:", "---:"),
    ]
    for result in results:
        means = [interval_text(result.metrics[metric].mean, metric) for metric in METRICS]
        lines.append(
            row(
                result.model,
                f"{parameters[result.model]:,}",
                *means,
                share_text(result, teacher),
                f"{result.seconds:.2f}",
            )
        )
    lines += [
        "",
        row("Label", "Model", *titles, unit(results).capitalize()),
        row("---", "---", *["---"] * len(titles), "---:"),
    ]
    for label in labels:
        for result in results:
            found = [interval_text(result.metrics[metric].labels.get(label.value), metric) for metric in METRICS]
            lines.append(row(label.name, result.model, *found, str(result.label_subjects.get(label.value, 0))))
    lines += _empty_lines(results)
    failed = failed_text(teacher, {label.value: label.name for label in labels})
    lines += ["", failed] if failed else []
    lines += _comparison_lines(comparisons, results)
    lines += _reduced_lines(reduced, {label.value: label.name for label in labels})
    for note in notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def to_json(
    results: Sequence[ModelResult],
    comparisons: Sequence[Comparison],
    reduced: Sequence[ReducedResult] = (),
    notes: Sequence[str] = (),
    **about: Any,
) -> str:
    """Return everything as JSON text, but the single scores: ``scores.csv`` has them."""
    content = {
        **about,
        "models": [_without_scores(result) for result in results],
        "comparisons": [asdict(comparison) for comparison in comparisons],
        "reduced_precisions": [{**asdict(each), "accepted": each.accepted} for each in reduced],
        "notes": list(notes),
    }
    return json.dumps(content, indent=2) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        ImageWriteError: the disk is full or not writable.
    """
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def interval_text(interval: Interval | None, metric: Metric, *, signed: bool = False) -> str:
    """Return mean and interval for people; ``-`` if there is none."""
    if interval is None:
        return "-"
    number = f"{'+' if signed else ''}.{DIGITS[metric]}f"
    return f"{interval.mean:{number}} ({interval.low:{number}} to {interval.high:{number}})"


def cases_text(results: Sequence[ModelResult]) -> str:
    """Return how many cases the means are over, and of how many subjects.

    They differ where only some networks find something in an empty case.

    Raises:
        ValueError: there are no results.
    """
    most = max(results, key=lambda result: result.case_count)
    text = f"n = {most.case_count} cases"
    if grouped(results):
        text = f"{images_text(most)}, n = {most.subject_count}"
    fewer = ", ".join(
        f"{images_text(result) if grouped(results) else result.case_count} for {result.model}"
        for result in results
        if result.case_count != most.case_count
    )
    return text + (f" ({fewer}; the other cases have none of its labels)" if fewer else "")


def images_text(result: ModelResult) -> str:
    """Return how many cases were evaluated, and how few subjects they show: ``53 images of 4 subjects``."""
    return f"{result.case_count} images of {result.subject_count} subjects"


def p_text(p_value: float | None) -> str:
    """Return a p value for people; ``-`` if there was no test."""
    return "-" if p_value is None else f"{p_value:.2g}"


def share_text(result: ModelResult, teacher: ModelResult | None) -> str:
    """Return the share of the teacher's mean Dice; ``-`` without a teacher, or with one that finds nothing."""
    best = 0.0 if teacher is None else teacher.mean("dice")
    return f"{result.mean('dice') / best:.1%}" if best else "-"


def empty_text(result: ModelResult) -> str:
    """Return how many scores are undefined or replaced."""
    return (
        f"{result.model}: {result.undefined} scores are undefined (label in neither segmentation) and left out; "
        f"{result.replaced} labels are in one segmentation only, their HD95 counts as the image's diagonal."
    )


def _without_scores(result: ModelResult) -> dict[str, Any]:
    metrics = {name: replace(metric, scores={}) for name, metric in result.metrics.items()}
    content = asdict(replace(result, metrics=metrics, subjects={}))
    del content["subjects"]  # the same of all models
    for metric in content["metrics"].values():
        del metric["scores"]
    return content


def _empty_lines(results: Sequence[ModelResult]) -> list[str]:
    lines = []
    for result in results:
        if result.undefined or result.replaced:
            lines += ["", empty_text(result)]
    return lines


def _comparison_lines(comparisons: Sequence[Comparison], results: Sequence[ModelResult]) -> list[str]:
    if not comparisons:
        return []
    lines = [
        "",
        f"Distilled - plain, {pairing(results)}. {tested(comparisons)}; p adjusted by Holm over the comparisons by the "
        f"same metric. {RECOVERED_TEXT}",
        "",
        row("Comparison", "Metric", "Difference", "p", "p (Holm)", "Recovered loss"),
        row("---", "---", "---", "---:", "---:", "---:"),
    ]
    for each in comparisons:
        lines.append(
            row(
                f"{each.better} - {each.baseline}",
                METRIC_TITLES[each.metric],
                interval_text(each.difference, each.metric, signed=True),
                p_text(each.p_value),
                p_text(each.p_holm),
                "-" if each.recovered is None else f"{each.recovered:.1%}",
            )
        )
    return lines


def _reduced_lines(reduced: Sequence[ReducedResult], names: dict[int, str]) -> list[str]:
    if not reduced:
        return []
    lines = [
        "",
        "Reduced precisions: loss of Dice against float32 on the same cases (negative is a gain). Accepted if every "
        "label is in a case, and none loses more than "
        f"{', '.join(f'{limit} ({precision})' for precision, limit in LARGEST_LOSS.items())}. Probe: share of the "
        "foreground voxels of the pack's probe that keep their label.",
        "",
        row("Model", "Precision", "Mean loss", *names.values(), "Probe", "Median s a case", "Result"),
        row("---", "---", *["---:"] * (3 + len(names)), "---"),
    ]
    for each in reduced:
        losses = [each.label_losses.get(value) for value in names]
        lines.append(
            row(
                each.model,
                each.precision,
                f"{each.mean_loss:+.4f}",
                *("-" if loss is None else f"{loss:+.4f}" for loss in losses),
                f"{each.probe_agreement:.2%}",
                f"{each.seconds:.2f}",
                "accepted" if each.accepted else "refused",
            )
        )
    return lines

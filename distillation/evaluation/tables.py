"""Results as files: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from distillation.evaluation.reduced_precision import LARGEST_LOSS
from KDSegmentatorLib.io.atomic import atomic_output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from distillation.evaluation.reduced_precision import ReducedResult
    from distillation.evaluation.statistics import Comparison, ModelResult
    from KDSegmentatorLib.packs.manifest import Interval, Label


def markdown(
    results: Sequence[ModelResult],
    comparisons: Sequence[Comparison],
    *,
    title: str,
    labels: Sequence[Label],
    parameters: dict[str, int],
    reduced: Sequence[ReducedResult] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return the tables as Markdown.

    Args:
        results: the teacher first.
        comparisons: distilled against plain.
        title: dataset and split, one line.
        labels: for the names of the columns.
        parameters: number of parameters by model name.
        reduced: the models in reduced precisions.
        notes: sentences that follow the tables.
    """
    cases = len(results[0].case_dice)
    names = [label.name for label in labels]
    lines = [
        f"### {title}",
        "",
        f"Dice (voxel overlap, 2|A∩B|/(|A|+|B|)), mean over n = {cases} cases with 95 % bootstrap interval (BCa).",
        "",
        _row("Model", "Parameters", "Mean Dice", *names, "% of teacher", "Median s a case"),
        _row("---", "---:", *["---"] * (1 + len(names)), "---:", "---:"),
    ]
    for result in results:
        share = result.mean.mean / results[0].mean.mean
        per_label = [_interval(result.labels.get(label.value)) for label in labels]
        size = f"{parameters[result.model]:,}"
        lines.append(
            _row(result.model, size, _interval(result.mean), *per_label, f"{share:.1%}", f"{result.seconds:.2f}")
        )
    undefined = sum(result.undefined for result in results)
    if undefined:
        lines += ["", f"{undefined} scores are undefined (label in neither segmentation) and left out."]
    if comparisons:
        lines += [
            "",
            "Paired by case; Wilcoxon signed-rank test, two-sided, zeros by Pratt. Recovered loss = (KD - plain) / "
            "(teacher - plain).",
            "",
            _row("Comparison", "Difference in Dice", "p", "Recovered loss"),
            _row("---", "---", "---:", "---:"),
        ]
    for comparison in comparisons:
        recovered = "-" if comparison.recovered is None else f"{comparison.recovered:.1%}"
        lines.append(
            _row(
                f"{comparison.better} - {comparison.baseline}",
                _interval(comparison.difference, signed=True),
                f"{comparison.p_value:.2g}",
                recovered,
            )
        )
    lines += _reduced_lines(reduced, {label.value: label.name for label in labels})
    for note in notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def to_json(
    results: Sequence[ModelResult],
    comparisons: Sequence[Comparison],
    reduced: Sequence[ReducedResult] = (),
    notes: Sequence[str] = (),
    **about: str | int | bool,
) -> str:
    """Return everything as JSON text."""
    content = {
        **about,
        "models": [asdict(result) for result in results],
        "comparisons": [asdict(comparison) for comparison in comparisons],
        "reduced_precisions": [{**asdict(each), "accepted": each.accepted} for each in reduced],
        "notes": list(notes),
    }
    return json.dumps(content, indent=2) + "\n"


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
        _row("Model", "Precision", "Mean loss", *names.values(), "Probe", "Median s a case", "Result"),
        _row("---", "---", *["---:"] * (3 + len(names)), "---"),
    ]
    for each in reduced:
        losses = [each.label_losses.get(value) for value in names]
        lines.append(
            _row(
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


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        ImageWriteError: the disk is full or not writable.
    """
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _interval(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return "-"
    sign = "+" if signed else ""
    return f"{interval.mean:{sign}.4f} ({interval.low:{sign}.4f} to {interval.high:{sign}.4f})"

"""``docs/validation.md``: the tables of several tasks and seeds on one page, written by the code alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillation.evaluation.statistics import METRICS
from distillation.report.content import TaskResults, join_seeds, read_results
from distillation.report.tables import accuracy_table, comparison_table, efficiency_table, label_table, verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def validation_page(workspaces: Sequence[Path]) -> str:
    """Return the page as Markdown; workspaces of one task are joined as its seeds.

    Raises:
        ExportError: a workspace was not evaluated.
        InvalidSettingsError: workspaces of one task do not fit together.
    """
    results = join_seeds([read_results(folder) for folder in workspaces])
    lines = [
        "# Validation",
        "",
        "Written by `kdseg-distill validation`; do not edit. Every network was run through the library's own pipeline, "
        "in float32. Which cases these are, and whether a teacher has seen them, is said with each task.",
        "",
    ]
    for each in results:
        lines += [f"## {each.title}", "", *_task(each)]
    return "\n".join(lines).rstrip() + "\n"


def _task(results: TaskResults) -> list[str]:
    seeds = ", ".join(map(str, results.seeds))
    lines = [f"Cases: {results.dataset}, {results.split}.", ""]
    lines += [f"{'Seeds' if len(results.seeds) > 1 else 'One seed'}: {seeds}.", ""]
    for model, missing in results.lacking.items():
        those = f"seed{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        lines += [f"{model} is left out: {those} did not evaluate it.", ""]
    lines += ["What the figures say:", ""]
    lines += [f"- {sentence}" for sentence in verdicts(results)] or ["- There is no pair of networks to compare."]
    lines.append("")
    tables = [accuracy_table(results), comparison_table(results), efficiency_table(results)]
    lines += [table.markdown() for table in tables if table is not None]
    lines += [label_table(results, metric).markdown() for metric in METRICS]
    return lines

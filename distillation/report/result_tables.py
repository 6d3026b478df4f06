"""The tables of a report: built once, written as Markdown or HTML."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from html import escape
from statistics import stdev
from typing import TYPE_CHECKING

from distillation.evaluation.paired_statistics import (
    METRIC_TITLES,
    METRICS,
    failed_labels,
)
from distillation.evaluation.tables import (
    AGREEMENT_TEXT,
    INTERVAL_TEXT,
    RECOVERED_TEXT,
    cases_text,
    definitions,
    interval_text,
    p_text,
    pairing,
    row,
    share_text,
    tested,
    unit,
)
from distillation.report.task_results import TEACHER
from KDSegmentatorLib.machine.hardware import processor_name
from KDSegmentatorLib.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.evaluation.paired_statistics import Metric
    from distillation.report.task_results import TaskResults
    from KDSegmentatorLib.packs.pack import StudentPack


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its caption.

    Attributes:
        title: one line.
        caption: what the numbers mean.
        header: names of the columns.
        rows: texts, as many as there are columns.
        text_columns: how many of the first columns are text; the others are numbers.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1

    def markdown(self) -> str:
        """Return it as Markdown."""
        numbers = len(self.header) - self.text_columns
        lines = [f"**{self.title}** {self.caption}", "", row(*self.header)]
        lines.append(row(*["---"] * self.text_columns, *["---:"] * numbers))
        return "\n".join([*lines, *(row(*cells) for cells in self.rows)]) + "\n"

    def html(self) -> str:
        """Return it as HTML."""

        def line(cells: Sequence[str], tag: str) -> str:
            classes = ["" if n < self.text_columns else ' class="number"' for n in range(len(cells))]
            made = (f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, classes, strict=True))
            return f"<tr>{''.join(made)}</tr>"

        body = "\n".join(line(cells, "td") for cells in self.rows)
        return (
            f"<table><caption><b>{escape(self.title)}</b> {escape(self.caption)}</caption>\n"
            f"<thead>{line(self.header, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table>\n"
        )


def accuracy_table(results: TaskResults) -> Table:
    """Return Table 1: means with intervals, each student beside the teacher."""
    joined = results.joined()
    seeds = results.by_seed()
    teacher = joined.get(TEACHER)
    header = ["Network", *(METRIC_TITLES[metric] for metric in METRICS), "% of teacher's Dice"]
    if len(seeds) > 1:
        header.append("SD of Dice over seeds")
    rows = []
    for model, result in joined.items():
        cells = [model, *(interval_text(result.metrics[metric].mean, metric) for metric in METRICS)]
        cells.append(share_text(result, teacher))
        if len(seeds) > 1:
            spread = stdev(each[model].mean("dice") for each in seeds)
            cells.append(f"{spread:.4f}" if spread else "same network")
        rows.append(tuple(cells))
    trained = ""
    if len(seeds) > 1:
        trained = (
            f"Means over {len(seeds)} seeds for each case and label; a label of a case that is undefined in some seeds "
            f"only counts there as agreement ({AGREEMENT_TEXT}). "
        )
    caption = (
        f"Accuracy on {results.dataset}, {results.split}, {cases_text(list(joined.values()))}; mean over "
        f"{unit(joined.values())} with {INTERVAL_TEXT}. {trained}{definitions(results.surface, joined.values())}"
    )
    return Table(title="Table 1.", caption=caption, header=tuple(header), rows=tuple(rows))


def comparison_table(results: TaskResults) -> Table | None:
    """Return Table 1b: every distilled student against the plain one; None if there is no such pair."""
    comparisons = results.comparisons()
    if not comparisons:
        return None
    rows = []
    for each in sorted(comparisons, key=lambda found: results.models.index(found.better)):
        rows.append(
            (
                each.better,
                METRIC_TITLES[each.metric],
                interval_text(each.difference, each.metric, signed=True),
                p_text(each.p_value),
                p_text(each.p_holm),
                "-" if each.recovered is None else f"{each.recovered:.1%}",
            )
        )
    caption = (
        f"Distilled - plain of the same size, {pairing(results.joined().values())}. {tested(comparisons)}; p adjusted "
        f"by Holm over the networks, metric by metric. {RECOVERED_TEXT} A fall of HD95 is a gain."
    )
    header = ("Network", "Metric", "Difference", "p", "p (Holm)", "Recovered loss")
    return Table(title="Table 1b.", caption=caption, header=header, rows=tuple(rows), text_columns=2)


def efficiency_table(results: TaskResults) -> Table | None:
    """Return Table 2; None if nothing was measured of the networks that were evaluated."""
    if not results.efficiency:
        return None
    first = results.efficiency[0]
    rows = []
    for each in results.efficiency:
        peak = each.running.peak_bytes
        rows.append(
            (
                each.model,
                f"{each.parameters:,}",
                f"{each.flops / 1e9:.2f}",
                f"{each.paper_flops / 1e9:.2f}",
                f"{each.file_bytes / 1e6:.1f}",
                "-" if peak is None else f"{peak / 1e9:.2f}",
                f"{each.running.seconds:.2f}",
            )
        )
    size = " x ".join(map(str, first.size))
    threads = "the engine's own number of threads"
    if first.running.threads is not None:
        threads = f"{first.running.threads} thread{'s' if first.running.threads > 1 else ''}"
    caption = (
        "Efficiency. GFLOPs of one window: 2 x multiply-accumulate of all convolutions, transposed ones too; as the "
        "paper counts: transposed convolutions left out, normalisation, activations, residual additions and average "
        f"pooling added. Peak memory of the whole process and wall time (median of {first.running.rounds} runs after a "
        f"first one) for the case {first.case}, {size} voxels, in float32 with {first.running.engine} and {threads} on "
        f"{first.machine}."
    )
    if len(results.seeds) > 1:
        caption += f" Networks of seed {results.seeds[0]}."
    if results.other_costs:
        caption += f" Left out, measured of another pack than was evaluated: {', '.join(results.other_costs)}."
    header = ("Network", "Parameters", "GFLOPs", "GFLOPs (paper)", "Pack (MB)", "Peak memory (GB)", "Seconds")
    return Table(title="Table 2.", caption=caption, header=header, rows=tuple(rows))


def label_table(results: TaskResults, metric: Metric) -> Table:
    """Return Table 3 for one metric: structures by networks."""
    joined = results.joined()
    teacher = joined.get(TEACHER)
    failed = () if teacher is None else failed_labels(teacher)
    rows = []
    for value, name in results.labels.items():
        cells = [interval_text(result.metrics[metric].labels.get(value), metric) for result in joined.values()]
        count = max(result.label_subjects.get(value, 0) for result in joined.values())
        rows.append((f"{name} (the teacher fails)" if value in failed else name, *cells, str(count)))
    title = METRIC_TITLES[metric]
    number = f"Table 3{'abc'[METRICS.index(metric)]}."
    over = unit(joined.values())
    caption = f"{title} by structure; mean over its {over} with {INTERVAL_TEXT}, '-' with fewer than two {over}."
    return Table(title=number, caption=caption, header=("Structure", *joined, over.capitalize()), rows=tuple(rows))


_HASH_DIGITS = 16


def provenance_table(results: TaskResults, packs: dict[str, StudentPack]) -> Table:
    """Return hashes, settings and versions of every network; the caption says which machine made the report."""
    rows = []
    for model, pack in packs.items():
        found = pack.manifest.provenance
        versions = ", ".join(f"{name} {version}" for name, version in sorted(found.versions.items()))
        rows.append(
            (
                model,
                found.checkpoint_sha256[:_HASH_DIGITS],
                "-" if found.teacher_sha256 is None else found.teacher_sha256[:_HASH_DIGITS],
                pack.manifest_sha256[:_HASH_DIGITS],
                "-" if found.iterations is None else f"{found.iterations:,}",
                "-" if found.seed is None else str(found.seed),
                found.created,
                versions,
            )
        )
    header = ("Network", "Checkpoint", "Teacher", "Pack", "Iterations", "Seed", "Exported", "Versions")
    caption = (
        f"First {_HASH_DIGITS} digits of the SHA-256 of checkpoints and manifests. Recipe's seed {results.seeds[0]}. "
        f"Report by KDSegmentator {__version__} on {processor_name()}, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}."
    )
    return Table(title="Provenance.", caption=caption, header=header, rows=tuple(rows), text_columns=4)

"""``docs/validation.md``: the tables of several tasks and seeds on one page, written by the code alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from distillation.evaluation.statistics import METRICS
from distillation.evaluation.tables import write_text
from distillation.report.content import TaskResults, join_seeds, read_results
from distillation.report.qualitative import PICTURE_NAME
from distillation.report.tables import accuracy_table, comparison_table, efficiency_table, label_table, verdicts
from distillation.report.write import FIGURES
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.atomic import atomic_output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IMAGES = "images"

_HEAD = (
    "# Validation\n"
    "\n"
    "Written by `kdseg-distill validation`; do not edit. Every network was run through the library's own pipeline, "
    "in float32. Which cases these are, and whether a teacher has seen them, is said with each task.\n"
)


def write_validation(workspaces: Sequence[Path], page: Path) -> None:
    """Write the page, or bring it up to date.

    Tasks that the page has and no workspace is given for stay as they are: a machine rarely holds all of them. The
    qualitative figure of a workspace's report, if it has one, is copied to the folder ``images`` beside the page.

    Raises:
        ExportError: a workspace was not evaluated, or the page is there and cannot be read.
        InvalidSettingsError: workspaces of one task do not fit together.
        ImageWriteError: the disk is full or not writable.
    """
    text = validation_page(workspaces, _read(page))
    for folder in workspaces:
        if _figure(folder).is_file():
            (page.parent / IMAGES).mkdir(parents=True, exist_ok=True)
            with atomic_output(page.parent / IMAGES / _figure_name(read_results(folder).task)) as temporary:
                temporary.write_bytes(_figure(folder).read_bytes())
    write_text(page, text)


def validation_page(workspaces: Sequence[Path], before: str = "") -> str:
    """Return the page as Markdown; workspaces of one task are joined as its seeds.

    Args:
        workspaces: evaluated ones.
        before: an earlier page, whose other tasks stay.

    Raises:
        ExportError: a workspace was not evaluated.
        InvalidSettingsError: workspaces of one task do not fit together.
    """
    each = [read_results(folder) for folder in workspaces]
    with_figure = {results.task for results, folder in zip(each, workspaces, strict=True) if _figure(folder).is_file()}
    sections = _sections(before)
    for results in join_seeds(each):
        sections[results.title] = "\n".join(_task(results, figure=results.task in with_figure)).strip("\n")
    return "\n".join([_HEAD, *(f"## {title}\n\n{text}\n" for title, text in sections.items())])


def _sections(page: str) -> dict[str, str]:
    """Return the text of every task of an earlier page by its title."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)[1:]
    return {title: text.strip("\n") for title, text in zip(parts[::2], parts[1::2], strict=True)}


def _read(page: Path) -> str:
    if not page.is_file():
        return ""
    try:
        return page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ExportError(f"{page} cannot be read ({error}); remove it to start a new page") from error


def _figure(workspace: Path) -> Path:
    return workspace / "report" / FIGURES / f"{PICTURE_NAME}.png"


def _figure_name(task: str) -> str:
    return f"validation-{task}.png"


def _task(results: TaskResults, *, figure: bool) -> list[str]:
    seeds = ", ".join(map(str, results.seeds))
    lines = [f"Cases: {results.dataset}, {results.split}.", ""]
    lines += [f"{'Seeds' if len(results.seeds) > 1 else 'One seed'}: {seeds}.", ""]
    for model, missing in results.lacking.items():
        those = f"seed{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        lines += [f"{model} is left out: {those} did not evaluate it.", ""]
    lines += ["What the figures say:", ""]
    lines += [f"- {sentence}" for sentence in verdicts(results)] or ["- There is no pair of networks to compare."]
    lines.append("")
    if figure:
        lines += [f"![The median case: reference and networks]({IMAGES}/{_figure_name(results.task)})", ""]
    tables = [accuracy_table(results), comparison_table(results), efficiency_table(results)]
    lines += [table.markdown() for table in tables if table is not None]
    lines += [label_table(results, metric).markdown() for metric in METRICS]
    return lines

"""``docs/validation.md``: the tables of several tasks and seeds on one page, written by the code alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from distillation.evaluation.statistics import METRICS
from distillation.evaluation.tables import cases_text, write_text
from distillation.report.qualitative import PICTURE_NAME
from distillation.report.result_tables import accuracy_table, comparison_table, efficiency_table, label_table
from distillation.report.results import TaskResults, join_seeds, outside_tests, read_results
from distillation.report.verdicts import verdicts
from distillation.report.write import FIGURES
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.files import atomic_output

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
    qualitative figure of a task's first workspace that has one in its report is copied to the folder ``images`` beside
    the page.

    Raises:
        ExportError: a workspace was not evaluated, or the page is there and cannot be read.
        InvalidSettingsError: workspaces of one task do not fit together.
        ImageWriteError: the disk is full or not writable.
    """
    evaluated = [(folder, read_results(folder)) for folder in workspaces]
    text = _page(evaluated, _read(page), _outside(workspaces))
    for task, (_, figure) in _figures(evaluated).items():
        (page.parent / IMAGES).mkdir(parents=True, exist_ok=True)
        with atomic_output(page.parent / IMAGES / _figure_name(task)) as temporary:
            temporary.write_bytes(figure.read_bytes())
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
    return _page([(folder, read_results(folder)) for folder in workspaces], before, _outside(workspaces))


def _outside(workspaces: Sequence[Path]) -> list[TaskResults]:
    return [read_results(folder, test) for folder in workspaces for test in outside_tests(folder)]


def _page(evaluated: Sequence[tuple[Path, TaskResults]], before: str, outside: Sequence[TaskResults] = ()) -> str:
    figures = _figures(evaluated)
    sections = _sections(before)
    from_outside = {results.title for results in outside}
    for results in join_seeds([*(results for _, results in evaluated), *outside]):
        seed, _ = figures.get(results.task, (None, None)) if results.title not in from_outside else (None, None)
        sections[results.title] = "\n".join(_task(results, figure_seed=seed)).strip("\n")
    return "\n".join([_HEAD, *(f"## {title}\n\n{text}\n" for title, text in sections.items())])


def _figures(evaluated: Sequence[tuple[Path, TaskResults]]) -> dict[str, tuple[int, Path]]:
    """Return the seed and the file of every task's figure: that of its first workspace which has one."""
    found: dict[str, tuple[int, Path]] = {}
    for folder, results in evaluated:
        file = folder / "report" / FIGURES / f"{PICTURE_NAME}.png"
        if file.is_file():
            found.setdefault(results.task, (results.seeds[0], file))
    return found


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


def _figure_name(task: str) -> str:
    return f"validation-{task}.png"


def _task(results: TaskResults, *, figure_seed: int | None) -> list[str]:
    seeds = ", ".join(map(str, results.seeds))
    lines = [f"Cases: {results.dataset}, {results.split}, {cases_text(list(results.joined().values()))}.", ""]
    lines += [f"{'Seeds' if len(results.seeds) > 1 else 'One seed'}: {seeds}.", ""]
    for model, missing in results.lacking.items():
        those = f"seed{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        lines += [f"{model} is left out: {those} did not evaluate it.", ""]
    lines += ["What the figures say:", ""]
    lines += [f"- {sentence}" for sentence in verdicts(results)] or ["- There is no pair of networks to compare."]
    lines.append("")
    if figure_seed is not None:
        alt = f"The median case: reference and networks (seed {figure_seed})"
        lines += [f"![{alt}]({IMAGES}/{_figure_name(results.task)})", ""]
    tables = [accuracy_table(results), comparison_table(results), efficiency_table(results)]
    lines += [table.markdown() for table in tables if table is not None]
    lines += [label_table(results, metric).markdown() for metric in METRICS]
    return lines

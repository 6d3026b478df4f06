"""``docs/validation.md``: one page a person can read: a table a task, what helps, and everything else folded in."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from distillation.evaluation.paired_statistics import METRICS
from distillation.evaluation.tables import cases_text, row, write_text
from distillation.report.arms import (
    arm_verdicts,
    difference_table,
    read_arms,
    seed_table,
    structure_table,
)
from distillation.report.qualitative import PICTURE_NAME
from distillation.report.result_tables import accuracy_table, comparison_table, efficiency_table, label_table
from distillation.report.task_results import TaskResults, join_seeds, outside_tests, read_results
from distillation.report.verdicts import verdicts
from distillation.report.write import FIGURES
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.files import atomic_output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from distillation.report.arms import Arms

IMAGES = "images"

_HEAD = (
    "# Validation\n"
    "\n"
    "The sections are written by `kdseg-distill validation`; this introduction stays as it is. Every network was run "
    "through the library's own pipeline, in float32. Which cases these are, and whether a teacher has seen them, is "
    "said with each task.\n"
)

_OVERVIEW = "What distillation gave"
_SUPERSEDED = "Superseded"
"""What the text of a section begins with that the overview leaves out."""

_COMPARED = re.compile(r"^\| (\S+ \S+) \| Dice \| ([^|]+) \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
_ARMS_COMPARED = re.compile(r"^\| (\S.*?) - (\S.*?) \| ([^|]+) \| \d+ \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def write_validation(sources: Sequence[Path], page: Path) -> None:
    """Write the page, or bring it up to date.

    Args:
        sources: evaluated workspaces, and files of scores (:func:`distillation.report.arms.read_arms`).
        page: its introduction, and sections that no source is given for, stay as they are: a machine rarely holds all
            of them.

    The qualitative figure of a task's first workspace that has one in its report is copied to the folder ``images``
    beside the page.

    Raises:
        ExportError: a workspace was not evaluated, or the page is there and cannot be read.
        InvalidSettingsError: workspaces of one task do not fit together.
        ImageWriteError: the disk is full or not writable.
    """
    arms, workspaces = _arms(sources)
    evaluated = [(folder, read_results(folder)) for folder in workspaces]
    text = _page(evaluated, _read(page), _outside(workspaces), arms)
    for task, (_, figure) in _figures(evaluated).items():
        (page.parent / IMAGES).mkdir(parents=True, exist_ok=True)
        with atomic_output(page.parent / IMAGES / _figure_name(task)) as temporary:
            temporary.write_bytes(figure.read_bytes())
    write_text(page, text)


def validation_page(sources: Sequence[Path], before: str = "") -> str:
    """Return the page as Markdown; workspaces of one task are joined as its seeds.

    Args:
        sources: evaluated workspaces, and files of scores.
        before: an earlier page, whose other tasks stay.

    Raises:
        ExportError: a workspace was not evaluated.
        InvalidSettingsError: workspaces of one task do not fit together, or a file of scores is not valid.
    """
    arms, workspaces = _arms(sources)
    return _page([(folder, read_results(folder)) for folder in workspaces], before, _outside(workspaces), arms)


def _arms(sources: Sequence[Path]) -> tuple[list[Arms], list[Path]]:
    """Return what the files of scores hold, and the other sources."""
    files = [source for source in sources if source.suffix == ".json"]
    return [read_arms(file) for file in files], [source for source in sources if source not in files]


def _outside(workspaces: Sequence[Path]) -> list[TaskResults]:
    return [read_results(folder, test) for folder in workspaces for test in outside_tests(folder)]


def _page(
    evaluated: Sequence[tuple[Path, TaskResults]], before: str, outside: Sequence[TaskResults], arms: Sequence[Arms]
) -> str:
    figures = _figures(evaluated)
    sections = _sections(before)
    sections.pop(_OVERVIEW, None)
    from_outside = {results.title for results in outside}
    for results in join_seeds([*(results for _, results in evaluated), *outside]):
        seed, _ = figures.get(results.task, (None, None)) if results.title not in from_outside else (None, None)
        sections[results.title] = "\n".join(_task(results, figure_seed=seed)).strip("\n")
    for each in arms:
        sections[each.title] = "\n".join(_experiment(each)).strip("\n")
    head = re.split(r"^## ", before, maxsplit=1, flags=re.MULTILINE)[0].strip("\n") + "\n" if before else _HEAD
    sections = {_OVERVIEW: _overview(sections), **sections}
    return "\n".join([head, *(f"## {title}\n\n{text}\n" for title, text in sections.items())])


def _overview(sections: Mapping[str, str]) -> str:
    """Return the differences in Dice of all sections that nothing supersedes on one table, read from theirs."""
    rows: list[tuple[str, ...]] = []
    for title, text in sections.items():
        if text.startswith(_SUPERSEDED):
            continue
        found = [
            (f"{model} - {model.partition(' ')[0]} plain", difference, holm if holm != "-" else p)
            for model, difference, p, holm in _COMPARED.findall(text)
        ]
        found += [
            (f"{arm} - {other}", difference, p_both if p_both != "-" else p_cases)
            for arm, other, difference, p_cases, p_both in _ARMS_COMPARED.findall(text)
        ]
        links = [f"[{title}](#{_anchor(title)})", *[""] * len(found)]
        rows += [(link, *cells) for link, cells in zip(links, found, strict=False)]
    if not rows:
        return "Nothing was compared yet."
    lines = [row("Task", "Networks", "Dice, 95 % interval", "p"), row("---", "---", "---:", "---:")]
    caption = "Pairs of networks of one size on the same cases; p '-' where these are too few for a test."
    return "\n".join([caption, "", *lines, *(row(*cells) for cells in rows)])


def _anchor(title: str) -> str:
    """Return what GitHub calls a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


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
    said = verdicts(results)
    first = [sentence for sentence in said if _is_of_dice(sentence)]
    lines += [f"- {sentence}" for sentence in first] or ["- There is no pair of networks to compare."]
    lines.append("")
    if figure_seed is not None:
        alt = f"The median case: reference and networks (seed {figure_seed})"
        lines += [f"![{alt}]({IMAGES}/{_figure_name(results.task)})", ""]
    accuracy = accuracy_table(results)
    lines.append(replace(accuracy, caption="Accuracy; how it is measured is said below.").markdown())
    tables = [comparison_table(results), efficiency_table(results), *(label_table(results, each) for each in METRICS)]
    others = [f"- {sentence}" for sentence in said if sentence not in first]
    inside = [accuracy.caption, "", *([*others, ""] if others else [])]
    inside += [table.markdown() for table in tables if table is not None]
    return [*lines, *_folded("Differences and their tests, what the networks cost, structures", inside)]


def _experiment(arms: Arms) -> list[str]:
    """Return the section of several arms."""
    lines = [f"Cases: {arms.data}.", "", *([arms.setup, ""] if arms.setup else [])]
    lines += [f"- {sentence}" for sentence in arm_verdicts(arms)]
    lines += ["", seed_table(arms).markdown(), difference_table(arms).markdown()]
    lines += [f"Limits: {arms.limits}", ""] if arms.limits else []
    return [*lines, *_folded("Structures", [structure_table(arms).markdown()])]


def _is_of_dice(sentence: str) -> bool:
    return re.search(r"\b(by|in) Dice\b", sentence) is not None


def _folded(summary: str, lines: Sequence[str]) -> list[str]:
    return ["<details>", f"<summary>{summary}</summary>", "", *lines, "</details>"]

"""Write the report of a workspace: ``report/report.html``, which stands alone, and ``report.md`` with figures."""

from __future__ import annotations

from html import escape
from statistics import fmean
from typing import TYPE_CHECKING

from distillation.evaluation.paired_statistics import METRICS, case_means, paired
from distillation.evaluation.scores import pack_hash
from distillation.evaluation.tables import write_text
from distillation.report.plots import accuracy_plot, difference_plot, label_plot, training_plot
from distillation.report.qualitative import Column, qualitative_figure
from distillation.report.result_tables import (
    Table,
    accuracy_table,
    comparison_table,
    efficiency_table,
    label_table,
    provenance_table,
)
from distillation.report.task_results import TEACHER, TaskResults, read_results
from distillation.report.verdicts import verdicts
from distillation.training_log import read_curves
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import ExportError, KDSegmentatorError
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import StudentPack, open_pack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from distillation.evaluation.paired_statistics import ModelResult
    from distillation.report.plots import Picture
    from distillation.stages import Stages

FIGURES = "figures"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f23; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; display: block; overflow-x: auto; }
caption { text-align: left; padding-bottom: .4rem; color: #444c56; max-width: 68rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d8dee4; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #57606a; } .number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #444c56; font-size: 13px; }
"""


def write_report(stages: Stages) -> Path:
    """Write the report of what a workspace's last evaluation measured, and return the HTML file.

    Raises:
        ExportError: nothing was evaluated, a pack that was evaluated is not there any more, or matplotlib is missing.
        ImageWriteError: the disk is full or not writable.
    """
    results = read_results(stages.folder)
    packs = _find_packs(stages.folder, results)
    tables = _tables(results)
    provenance = provenance_table(results, packs)
    pictures = _pictures(stages, results, packs)
    licences = _licences(stages)
    folder = stages.folder / "report"
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        with atomic_output(folder / FIGURES / f"{picture.name}.{picture.suffix}") as temporary:
            temporary.write_bytes(picture.content)
    title = f"{results.title}: teacher and students"
    write_text(folder / "report.md", _markdown(title, results, tables, pictures, provenance, licences))
    path = folder / "report.html"
    write_text(path, _html(title, results, tables, pictures, provenance, licences))
    return path


def _tables(results: TaskResults) -> list[Table]:
    tables = [accuracy_table(results), comparison_table(results), efficiency_table(results)]
    return [table for table in tables if table is not None] + [label_table(results, metric) for metric in METRICS]


def _pictures(stages: Stages, results: TaskResults, packs: dict[str, StudentPack]) -> list[Picture]:
    logs = {}
    for model, pack in packs.items():
        source = stages.trainings.source(pack.manifest.size, pack.manifest.provenance.method)
        log = read_curves(source.folder / f"fold_{stages.recipe.dataset.fold}")
        if log is not None:
            logs[model] = log
    found = [
        _qualitative(stages, results, packs),
        accuracy_plot(results),
        difference_plot(results),
        label_plot(results),
        training_plot(logs),
    ]
    return [picture for picture in found if picture is not None]


def _qualitative(stages: Stages, results: TaskResults, packs: dict[str, StudentPack]) -> Picture:
    """Show the smallest size that has most methods, on its median case. Without any student the teacher is shown."""
    by_size: dict[str, list[str]] = {}
    for model in results.models:
        if model != TEACHER:
            by_size.setdefault(model.partition(" ")[0], []).append(model)
    shown = max(by_size.values(), key=lambda models: (len(models), -_parameters(packs[models[0]])), default=[TEACHER])
    joined = results.joined()
    name, count = median_case([joined[model] for model in shown])
    case = stages.trainings.prepared().raw.case(name)
    image = read_volume(case.image)
    columns = [Column(title="reference", segmentation=read_volume(case.label, allow_constant=True))]
    for model in shown:
        engine = choose_engine(packs[model], RunOptions(precision="float32")).engine
        dice = joined[model].metrics["dice"].cases.get(case.name)
        title = f"{model}\n{'no label, no Dice' if dice is None else f'mean Dice {dice:.3f}'}"
        segmentation = segment(image, packs[model], engine, RunOptions(region="given")).volume
        columns.append(Column(title=title, segmentation=segmentation))
    recipe = stages.recipe.pack
    chosen = f"the median of {count} by the mean Dice of the networks shown (of two in the middle, the better one)"
    return qualitative_figure(image, columns, recipe.labels, case=case.name, chosen=chosen, modality=recipe.modality)


def median_case(shown: Sequence[ModelResult]) -> tuple[str, int]:
    """Return the case that is nobody's choice, and of how many: the median of the networks' mean Dice.

    Of an even number it is the better one of the two in the middle. Cases without any label are left out.
    """
    tables = [case_means(table) for table in paired("dice", *shown)]
    means = {case: fmean(table[case] for table in tables) for case in tables[0]}
    ordered = sorted(means, key=lambda case: (means[case], case))
    return ordered[len(ordered) // 2], len(ordered)


def _parameters(pack: StudentPack) -> int:
    return pack.manifest.network.parameters


def _find_packs(folder: Path, results: TaskResults) -> dict[str, StudentPack]:
    """Return the very packs that were evaluated.

    Raises:
        ExportError: one is missing or was replaced since.
    """
    wanted = {row.pack_hash: row.model for rows in results.scores for row in rows}
    found: dict[str, StudentPack] = {}
    for path in sorted((*folder.glob("packs/*/*"), *folder.glob("packs-float32/*/*"))):
        try:
            pack = open_pack(path)
        except KDSegmentatorError:
            continue
        model = wanted.get(pack_hash(pack))
        if model is not None:
            found[model] = pack
    missing = [model for model in results.models if model not in found]
    if missing:
        raise ExportError(
            f"the packs of {', '.join(missing)} that were evaluated are not in {folder} any more; run 'kdseg-distill "
            "evaluate' again"
        )
    return {model: found[model] for model in results.models}


def _licences(stages: Stages) -> list[tuple[str, str]]:
    recipe = stages.recipe.pack
    return [
        ("Data", f"{recipe.data.license}. {recipe.data.text}"),
        ("Weights", f"{recipe.weights.license}. {recipe.weights.text}"),
        ("Intended use", recipe.intended_use),
        ("Limits", recipe.limits),
    ]


def _markdown(
    title: str,
    results: TaskResults,
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    provenance: Table,
    licences: Sequence[tuple[str, str]],
) -> str:
    lines = [f"# {title}", "", "## What the figures say", ""]
    lines += [f"- {sentence}" for sentence in verdicts(results)] or ["- There is no pair of networks to compare."]
    lines += ["", "## Tables", ""]
    lines += [table.markdown() for table in tables]
    lines += ["## Figures", ""]
    lines += [picture.markdown(FIGURES) for picture in pictures]
    lines += ["## Provenance", "", provenance.markdown(), "## Licence and use", ""]
    lines += [f"- {name}: {text}" for name, text in licences]
    return "\n".join(lines) + "\n"


def _html(
    title: str,
    results: TaskResults,
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    provenance: Table,
    licences: Sequence[tuple[str, str]],
) -> str:
    sentences = verdicts(results) or ["There is no pair of networks to compare."]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        "<h2>What the figures say</h2><ul>",
        *(f"<li>{escape(sentence)}</li>" for sentence in sentences),
        "</ul><h2>Figures</h2>",
        *(picture.html() for picture in pictures),
        "<h2>Tables</h2>",
        *(table.html() for table in tables),
        "<h2>Provenance</h2>",
        provenance.html(),
        "<h2>Licence and use</h2><dl>",
        *(f"<dt><b>{escape(name)}</b></dt><dd>{escape(text)}</dd>" for name, text in licences),
        "</dl></body></html>",
    ]
    return "\n".join(parts) + "\n"

"""``kdseg compare``: two label maps in, a table of how they agree out."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from KDSegmentatorLib.analysis.comparison import Comparison, LabelComparison, compare, write_comparison
from KDSegmentatorLib.analysis.disagreement import Disagreement, DisagreementRegion, disagreement_map
from KDSegmentatorLib.analysis.surface_distance import check_tolerance
from KDSegmentatorLib.cli.outputs import PlannedOutput, Writer, check_outputs, write_together
from KDSegmentatorLib.cli.terminal import ProgressLine, listening, table
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import SUFFIXES, read_volume, write_volume
from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.manifest import LabelName, LabelValue
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.packs.strict_json import FieldError, build

_SHOWN_VALUES = 12


def run(arguments: argparse.Namespace) -> None:
    """Compare two files and print the table; the files that were asked for are written together or not at all.

    Args:
        arguments: of ``kdseg compare``.

    Raises:
        KDSegmentatorError: see the comparison, the packs and the image files.
    """
    paths: tuple[Path, Path] = (arguments.first, arguments.second)
    outputs = _planned_outputs(arguments)
    for path in (*paths, Path(arguments.labels or paths[0])):  # none of what is read may be written over
        check_outputs(outputs, path)
    check_tolerance(arguments.tolerance)
    names = None if arguments.labels is None else label_names(arguments.labels)
    titles = (str(paths[0]), str(paths[1]))
    progress = ProgressLine(sys.stderr)
    with listening() as interrupt:
        first, second = _loaded(paths)
        interrupt.check()
        try:
            comparison = compare(
                first,
                second,
                names,
                tolerance_mm=arguments.tolerance,
                surface="subvoxel" if arguments.subvoxel else "voxels",
                titles=titles,
                progress=progress,
                cancel=interrupt.requested,
            )
        finally:
            progress.clear()
        writers: dict[str, Writer] = {"--csv": partial(write_comparison, comparison)}
        if arguments.disagreement is not None:
            differences = disagreement_map(first, second, names, titles=titles)
            writers["--disagreement"] = partial(write_volume, differences)
        write_together([(output.path, writers[output.option]) for output in outputs], interrupt)
        print(summary(comparison, titles))
        for output in outputs:
            print(f"Wrote {output.path}" + (f" ({_legend()})" if output.option == "--disagreement" else ""))


def summary(comparison: Comparison, titles: tuple[str, str]) -> str:
    """Return a comparison for people: a line for every structure, the means, and what the numbers are.

    Args:
        comparison: what to show.
        titles: the two segmentations, called A and B in the table.
    """
    mean = comparison.mean
    header = ("Structure", "Dice", "NSD", "HD95 (mm)", "A (ml)", "B (ml)", "B - A (ml)", "(%)", "Largest disagreement")
    rows = [header, *(_cells(label) for label in comparison.labels)]
    if mean.structures:
        scores = (_score(mean.dice), _score(mean.nsd), _length(mean.hd95_mm))
        rows.append((f"Mean of {mean.structures}", *scores, "", "", "", "", ""))
    surface = "area of the surface between the voxels" if comparison.surface == "subvoxel" else "surface voxels"
    facts = [
        ("A", titles[0]),
        ("B", titles[1]),
        ("NSD", f"surface Dice: share of both surfaces ({surface}) within {comparison.tolerance_mm:g} mm of the other"),
        ("HD95", "95th percentile of the distance between the surfaces, the larger of both directions"),
        ("Places", "L, P, S in mm: the deepest point of the largest region that is in A or B only"),
    ]
    if comparison.unnamed:
        facts.append(("Left out", f"label values without a name: {_listed(comparison.unnamed)}"))
    if not mean.structures:
        facts.append(("Note", "neither A nor B holds any of these structures"))
    return f"{table(rows, numbers=range(1, 8))}\n\n{table(facts)}"


def _planned_outputs(arguments: argparse.Namespace) -> list[PlannedOutput]:
    planned = []
    if arguments.csv is not None:
        planned.append(PlannedOutput(option="--csv", path=arguments.csv, suffixes=(".csv",)))
    if arguments.disagreement is not None:
        planned.append(PlannedOutput(option="--disagreement", path=arguments.disagreement, suffixes=SUFFIXES))
    return planned


def _loaded(paths: tuple[Path, Path]) -> tuple[Volume, Volume]:
    """Return both label maps, read at the same time; in one of them nothing may have been found."""
    with ThreadPoolExecutor(max_workers=2) as executor:
        first, second = executor.map(partial(read_volume, allow_constant=True), paths)
    return first, second


def _cells(label: LabelComparison) -> tuple[str, ...]:
    region = label.largest_disagreement
    return (
        label.name,
        _score(label.dice),
        _score(label.nsd),
        _length(label.hd95_mm),
        f"{label.first_ml:.2f}",
        f"{label.second_ml:.2f}",
        f"{label.difference_ml:+.2f}",
        "-" if math.isnan(label.difference_percent) else f"{label.difference_percent:+.1f}",
        "-" if region is None else _place(region),
    )


def _place(region: DisagreementRegion) -> str:
    return f"{region.volume_ml:.2f} ml at {', '.join(f'{coordinate:.1f}' for coordinate in region.position)}"


def _score(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _length(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _listed(values: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, values[:_SHOWN_VALUES]))
    return shown if len(values) <= _SHOWN_VALUES else f"{shown} and {len(values) - _SHOWN_VALUES} more"


def _legend() -> str:
    meanings = {
        Disagreement.ONLY_IN_FIRST: "only in A",
        Disagreement.ONLY_IN_SECOND: "only in B",
        Disagreement.OTHER_LABEL: "another label in B",
    }
    return ", ".join(f"{value} {meaning}" for value, meaning in meanings.items())


_TABLE_SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class _Row:
    label_value: LabelValue
    label_name: LabelName


def label_names(source: str) -> dict[int, str]:
    """Return label value to name.

    Args:
        source: a task, the id of a pack, or a file ``*.csv`` or ``*.tsv`` (comma, semicolon or tabulator) with the
            columns ``label_value`` and ``label_name``, as ``kdseg segment --statistics`` writes it; other columns are
            left alone.

    Raises:
        InvalidSettingsError: the table is missing, not readable, has no labels or has one twice.
        ManifestError: the pack's manifest is not valid.
        PackError: there is no such pack, or it is damaged.
    """
    if source.lower().endswith(_TABLE_SUFFIXES):
        return _from_table(Path(source))
    store = PackStore()
    # the packs of a task have the same labels
    packs = {family.task: family.packs[0] for family in families(store.packs())}
    pack = packs.get(source) or store.get(source)
    return {label.value: label.name for label in pack.manifest.labels}


def _from_table(path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            table = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
            for row in table:
                label = _row(row, f"{path}, line {table.line_num}")
                if label.label_value in names:
                    raise InvalidSettingsError(
                        f"{path}, line {table.line_num}: the label {label.label_value} is there twice; remove one"
                    )
                names[label.label_value] = label.label_name
    except OSError as error:
        raise InvalidSettingsError(f"cannot read {path}: {error.strerror or error}; check the name") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidSettingsError(f"{path} is not a CSV table in UTF-8 ({error}); export it again") from error
    if not names:
        raise InvalidSettingsError(f"{path} has no labels; give a table with the columns label_value and label_name")
    return names


def _row(row: dict[str, Any], where: str) -> _Row:
    value, name = row.get("label_value"), row.get("label_name")
    if value is None or name is None:
        raise InvalidSettingsError(f"{where}: the columns label_value and label_name are needed; add them")
    try:
        return build(_Row, {"label_value": _number(value), "label_name": name})
    except FieldError as error:
        raise InvalidSettingsError(f"{where}: {error}; correct the table") from None


def _number(text: str) -> int | str:
    """Return the whole number that a cell holds; what is none is left as it is, to be shown in the error."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text

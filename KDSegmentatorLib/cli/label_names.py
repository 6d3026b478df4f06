"""What label values mean: from a pack, or from a table that the user has."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.manifest import Label
from KDSegmentatorLib.packs.rules import RULES, TEXT
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.packs.strict_json import FieldError, Rules, build

_TABLE_SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class _Row:
    label_value: int
    label_name: str


_ROW_RULES: Rules = {
    (_Row, "label_value"): RULES[Label, "value"],
    (_Row, "label_name"): RULES[Label, "name"],
}


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
        return build(_Row, {"label_value": _number(value), "label_name": name}, _ROW_RULES, TEXT)
    except FieldError as error:
        raise InvalidSettingsError(f"{where}: {error}; correct the table") from None


def _number(text: str) -> int | str:
    """Return the whole number that a cell holds; what is none is left as it is, to be shown in the error."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text

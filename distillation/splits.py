"""Who is held out: nnU-Net's five-fold split, with cases of one origin kept in one fold."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import TrainingError
from KDSegmentatorLib.io.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from distillation.dataset import RawDataset

FOLDS = 5
SPLITS_NAME = "splits_final.json"
SPLIT_SEED = 12345
"""nnU-Net's own."""

Groups = tuple[tuple[str, ...], ...]
"""Each group a tuple of case names or of patterns for them, as in a shell: ``OAS_1003`` or ``head_01_*``."""


def write_splits(raw: RawDataset, folder: Path, groups: Groups = (), held_out: Sequence[str] = ()) -> None:
    """Write nnU-Net's five-fold split, always the same for the same case names; an existing split is checked and kept.

    Args:
        raw: the dataset.
        folder: its preprocessed folder.
        groups: cases of one origin (rescans of a person, images made from one head). A fold holds all of a group or
            none, since its score would otherwise be that of memory. A case of no group stands for itself.
        held_out: names or patterns of the cases of the only fold; none makes nnU-Net's five folds.

    Raises:
        TrainingError: there is too little to split, a case is in two groups, a group is empty, or the existing split
            does not fit the dataset or its groups.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    names = [case.name for case in raw.cases]
    path = folder / SPLITS_NAME
    units = grouped(names, groups)
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in held_out)]
    if path.is_file():
        check_splits(path, names, units)
        if held_out and set(read_splits(path)[0]["val"]) != set(chosen):
            raise TrainingError(
                f"{path} holds out other cases than the recipe's held_out; remove it, and what was trained with it"
            )
        return
    if held_out:
        rest = [name for name in names if name not in chosen]
        idle = [pattern for pattern in held_out if not any(fnmatchcase(name, pattern) for name in names)]
        if idle or not rest:
            raise TrainingError(
                f"held_out of the recipe: no case is named {', '.join(idle)}"
                if idle
                else "held_out of the recipe names every case; nothing is left to train on"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, [{"train": rest, "val": chosen}])
        check_splits(path, names, units)
        return
    if len(units) < FOLDS:
        what = "groups of cases" if groups else "cases"
        raise TrainingError(f"{raw.folder} has {len(units)} {what}; a five-fold split needs at least {FOLDS}")
    by_first = {unit[0]: unit for unit in units}
    splits = generate_crossval_split(sorted(by_first), seed=SPLIT_SEED, n_splits=FOLDS)
    plain = [
        {half: sorted(name for first in split[half] for name in by_first[str(first)]) for half in ("train", "val")}
        for split in splits
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, plain)


def read_splits(path: Path) -> list[dict[str, list[str]]]:
    """Read nnU-Net's split: for each fold the case names of ``train`` and ``val``.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        return [{half: [str(name) for name in split[half]] for half in ("train", "val")} for split in splits]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} cannot be read as nnU-Net's split ({error}); remove it and run 'kdseg-distill prepare' again"
        ) from error


def check_splits(path: Path, names: Iterable[str], units: Sequence[Sequence[str]]) -> None:
    """Check that a split is of these cases, holds none of them in both halves, and tears no group apart.

    Raises:
        TrainingError: it is not, or cannot be read.
    """
    known = set(names)
    for split in read_splits(path):
        train, held_out = set(split["train"]), set(split["val"])
        if not train.isdisjoint(held_out) or not train | held_out <= known:
            raise TrainingError(
                f"{path} does not fit the dataset: a case is in both halves, or missing in it; correct or remove it"
            )
        for unit in units:
            if not train.isdisjoint(unit) and not held_out.isdisjoint(unit):
                raise TrainingError(
                    f"{path} trains on a part of the group of {unit[0]} and holds out another, though the recipe keeps "
                    "it together; remove the file, and what was trained with it"
                )


def saw_held_out(fold_folder: Path, held_out: Iterable[str]) -> tuple[str, ...] | None:
    """Return the held-out cases that a given network was not validated on, so that it was probably trained on them.

    nnU-Net validates a fold on the cases that it holds out, and writes ``validation/summary.json``.

    Args:
        fold_folder: the network's ``fold_X``.
        held_out: case names.

    Returns:
        None if there is no such file, so that nobody knows.
    """
    try:
        content = json.loads((fold_folder / "validation" / "summary.json").read_text(encoding="utf-8"))
        # of whatever system it was trained on
        files = {PureWindowsPath(case["prediction_file"]).name for case in content["metric_per_case"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tuple(name for name in held_out if not any(file.startswith(f"{name}.") for file in files))


def grouped(names: Iterable[str], groups: Groups) -> list[tuple[str, ...]]:
    """Return the cases that stay together, each tuple sorted, single cases as tuples of one.

    Raises:
        TrainingError: a case is in two groups, or a group's name or pattern stands for no case.
    """
    names = sorted(names)
    taken: dict[str, int] = {}
    units: list[tuple[str, ...]] = []
    for number, patterns in enumerate(groups):
        members = []
        for pattern in patterns:
            found = [name for name in names if fnmatchcase(name, pattern)]
            if not found:
                raise TrainingError(f"groups[{number}] of the recipe names {pattern!r}, but no case is called so")
            members += found
        for name in members:
            if taken.setdefault(name, number) != number:
                raise TrainingError(f"the case {name} is in groups[{taken[name]}] and groups[{number}] of the recipe")
        units.append(tuple(sorted(set(members))))
    return units + [(name,) for name in names if name not in taken]

"""What a training leaves: the table ``fold_X/training_log.csv``, or what its checkpoint remembers."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillation.training_log import CSV_NAME

if TYPE_CHECKING:
    from pathlib import Path

_KNOWN = {"epoch", "iteration", "learning_rate", "seconds"}


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """One training, epoch by epoch.

    Attributes:
        epochs: number of each epoch, counted from 0.
        curves: values by name, one an epoch, nan where there is none: ``loss`` and its terms, from a checkpoint also
            ``validation_loss`` and ``pseudo_dice``.
        seconds: wall time of each epoch; empty if unknown.
    """

    epochs: tuple[int, ...]
    curves: dict[str, tuple[float, ...]]
    seconds: tuple[float, ...] = ()


def read_curves(fold_folder: Path) -> TrainingCurves | None:
    """Return what is known about a training; None if it left nothing readable."""
    table = _from_table(fold_folder / CSV_NAME)
    if table is not None:
        return table
    for name in ("checkpoint_final.pth", "checkpoint_latest.pth"):
        if (fold_folder / name).is_file():
            return _from_checkpoint(fold_folder / name)
    return None


def _from_table(path: Path) -> TrainingCurves | None:
    """Return means over the rows of an epoch: there may be several."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            names = [name for name in table.fieldnames or () if name not in _KNOWN]
            rows = list(table)
        by_epoch: dict[int, list[dict[str, str]]] = {}
        for row in rows:
            by_epoch.setdefault(int(row["epoch"]), []).append(row)
        epochs = tuple(sorted(by_epoch))
        if not epochs:
            return None
        curves = {
            name: tuple(_mean([_number(row[name]) for row in by_epoch[epoch]]) for epoch in epochs) for name in names
        }
        seconds = tuple(sum(_number(row["seconds"]) for row in by_epoch[epoch]) for epoch in epochs)
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    return TrainingCurves(epochs=epochs, curves=curves, seconds=seconds)


def _from_checkpoint(path: Path) -> TrainingCurves | None:
    from distillation.teacher import read_checkpoint
    from KDSegmentatorLib.errors import TeacherError

    try:
        log = read_checkpoint(path).get("logging")
    except TeacherError:
        return None
    if not isinstance(log, dict) or not log.get("train_losses"):
        return None
    losses = [float(value) for value in log["train_losses"]]
    count = len(losses)
    curves = {"loss": tuple(losses)}
    for name, key in (("validation_loss", "val_losses"), ("pseudo_dice", "mean_fg_dice")):
        values = [float(value) for value in log.get(key) or ()][:count]
        if values:
            curves[name] = tuple(values + [math.nan] * (count - len(values)))
    starts, ends = log.get("epoch_start_timestamps") or (), log.get("epoch_end_timestamps") or ()
    seconds = tuple(float(end) - float(start) for start, end in zip(starts, ends, strict=False))
    return TrainingCurves(epochs=tuple(range(count)), curves=curves, seconds=seconds)


def _number(text: str | None) -> float:
    return float(text) if text else math.nan


def _mean(values: list[float]) -> float:
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan

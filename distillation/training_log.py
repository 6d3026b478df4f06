"""What a training leaves: a table and TensorBoard, epoch by epoch, the curves read back from it, and who trained it."""

from __future__ import annotations

import csv
import math
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch.utils.tensorboard import SummaryWriter


CSV_NAME = "training_log.csv"
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch; losses are means over its iterations.

    Attributes:
        epoch: number, from 0.
        iteration: optimiser steps of this training so far.
        losses: by name, with their weights; they add up to what is minimised.
        validation_loss: nnU-Net's loss (no distillation) of a few validation batches.
        pseudo_dice: mean foreground Dice of these batches.
        learning_rate: of the epoch.
        seconds: duration.
    """

    epoch: int
    iteration: int
    losses: Mapping[str, float]
    validation_loss: float
    pseudo_dice: float
    learning_rate: float
    seconds: float

    def row(self) -> dict[str, float]:
        """Return the epoch as a line of the CSV file."""
        return {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "loss": sum(self.losses.values()),
            **{f"loss_{name}": value for name, value in self.losses.items()},
            "validation_loss": self.validation_loss,
            "pseudo_dice": self.pseudo_dice,
            "learning_rate": self.learning_rate,
            "seconds": self.seconds,
        }


class TrainingLog:
    """Writes epochs into ``training_log.csv`` and, where it is installed, TensorBoard's event files.

    A resumed training replaces what an earlier process wrote about epochs that it repeats.

    Args:
        folder: of the fold.
        first_epoch: the epoch that this process starts with.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        self._path = folder / CSV_NAME
        self._rows = [row for row in _read(self._path) if int(row["epoch"]) < first_epoch]
        self._tensorboard = _summary_writer(folder / TENSORBOARD_FOLDER, first_epoch)

    def write(self, epoch: Epoch) -> None:
        """Add an epoch. The whole file appears anew: a kill leaves no half line.

        Raises:
            ImageWriteError: the disk is full or the folder not writable.
        """
        row = epoch.row()
        self._rows.append(row)
        names = list(dict.fromkeys(name for each in self._rows for name in each))
        with atomic_output(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self._rows)
        if self._tensorboard is not None:
            for name, value in row.items():
                if name not in ("epoch", "iteration"):
                    self._tensorboard.add_scalar(name.replace("loss_", "loss/", 1), value, epoch.epoch)
            self._tensorboard.flush()

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._tensorboard is not None:
            self._tensorboard.close()


class LossMeans:
    """Means of losses over an epoch; kept on the device, so that no iteration waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Add an iteration's losses."""
        for name, value in terms.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def means(self) -> dict[str, torch.Tensor]:
        """Return the means by name."""
        return {name: value / self._count for name, value in self._sums.items()}


class TimeLeft:
    """Estimates how long the remaining epochs take, from those that this process ran.

    Args:
        epochs: how many there are from now on.
    """

    def __init__(self, epochs: int) -> None:
        self._start = time.monotonic()
        self._epochs = epochs
        self._done = 0

    def after_epoch(self) -> float:
        """Return the seconds left, after one more epoch."""
        self._done += 1
        return (time.monotonic() - self._start) / self._done * max(0, self._epochs - self._done)


def duration_text(seconds: float) -> str:
    """Return a duration for people: ``42 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _summary_writer(folder: Path, first_epoch: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_epoch)


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


TRAINING_PACKAGES = ("torch", "nnunetv2", "dynamic_network_architectures", "batchgeneratorsv2", "numpy")
"""What a training's weights depend on, beside this package and Python."""

EXPORT_PACKAGES = ("torch", "dynamic_network_architectures", "onnx")
"""What an exported network depends on, beside this package and Python."""


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, of this package and of installed others; what is not installed is left out."""
    versions = {"python": platform.python_version(), "kdsegmentator": __version__}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions

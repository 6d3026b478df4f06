"""What a training did, epoch by epoch: a CSV file and TensorBoard beside nnU-Net's own log."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.io.files import atomic_output

if TYPE_CHECKING:
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

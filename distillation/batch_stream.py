"""Batches of nnU-Net's loaders in a fixed order: batch n is the same, however many processes make it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class Loader(Protocol):
    """What makes a batch of random patches, from numpy's and torch's global random numbers, as nnU-Net's loaders do."""

    def generate_train_batch(self) -> dict[str, Any]:
        """Return a batch."""


class BatchStream(Iterator[dict[str, Any]]):
    """An endless stream of batches, of which number n depends on the seed and n alone.

    nnU-Net's own worker processes seed themselves and hand over whichever batch is ready first, so that no run can be
    repeated, and one that goes on after a kill sees other batches than it would have. Here a run may go on on another
    machine, with more processes or none, and networks that an interruption left at different epochs stay paired.

    Args:
        loader: makes the batches; it has to be picklable where processes are spawned.
        seed: numbers of which any other combination gives unrelated batches.
        processes: that make batches ahead; 0 makes each when it is asked for, in this process.
        pin_memory: put batches where a GPU copies them from.
    """

    def __init__(self, loader: Loader, seed: Sequence[int], *, processes: int = 0, pin_memory: bool = False) -> None:
        self._batches = _Batches(loader, tuple(seed))
        self._options = {"num_workers": processes, "pin_memory": pin_memory}
        self._number = 0
        self._iterator: Iterator[dict[str, Any]] | None = None

    def go_to(self, number: int) -> None:
        """Make this batch the next one; where it is so already, what was made ahead stays."""
        if number != self._number:
            self.close()
            self._number = number

    def __next__(self) -> dict[str, Any]:
        if self._iterator is None:
            numbers = itertools.count(self._number)
            self._iterator = iter(DataLoader(self._batches, batch_size=None, sampler=numbers, **self._options))  # type: ignore[arg-type]
        self._number += 1
        return next(self._iterator)

    def close(self) -> None:
        """End the processes; the stream may be used again."""
        self._iterator = None


class _Batches(Dataset[dict[str, Any]]):
    def __init__(self, loader: Loader, seed: tuple[int, ...]) -> None:
        self.loader = loader
        self.seed = seed

    def __getitem__(self, number: int) -> dict[str, Any]:
        seed_everything(*self.seed, 1 + number)  # a 0 at the end would not count
        return self.loader.generate_train_batch()


def seed_everything(*numbers: int) -> None:
    """Seed numpy and torch from numbers of which any other combination gives an unrelated stream."""
    state = np.random.SeedSequence(numbers).generate_state(2)
    np.random.seed(state[0])
    torch.manual_seed(int(state[1]))

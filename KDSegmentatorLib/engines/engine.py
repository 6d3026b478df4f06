"""What every inference engine can do."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import EngineError
from KDSegmentatorLib.packs.manifest import Precision


class Engine(Protocol):
    """Runs the body of a network, that is everything but its head."""

    @property
    def name(self) -> str:
        """Name of the engine: ``openvino``, ``onnxruntime``."""
        ...

    @property
    def device(self) -> str:
        """What it computes on: ``cpu``, ``cuda``, ``gpu``, ..."""
        ...

    @property
    def precision(self) -> Precision:
        """Number format that it computes in."""
        ...

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        """Return the features that enter the head.

        Args:
            windows: (n, channels, z, y, x), contiguous.
            cancelled: asked several times a second while the engine computes.

        Returns:
            (n, features, z, y, x), an array of the caller's own.

        Raises:
            CancelledError: ``cancelled`` returned True.
            InsufficientMemoryError: the machine ran out of memory.
            EngineError: the engine failed, or was made in another process.
        """
        ...


def check_process(name: str, made_in: int) -> None:
    """Refuse an engine in a forked process: its threads stayed in the other one, and would be waited for for ever.

    Args:
        name: of the engine.
        made_in: id of the process in which it was made.

    Raises:
        EngineError: this is another process.
    """
    if os.getpid() != made_in:
        raise EngineError(
            f"this {name} engine was made in another process (fork), where its threads stayed: start processes with "
            "multiprocessing.get_context('spawn'), and make engines and segmenters in them"
        )

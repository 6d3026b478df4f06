"""What every inference engine can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

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
            (n, features, z, y, x). The caller may change the array; the next call may reuse its memory.

        Raises:
            CancelledError: ``cancelled`` returned True.
            InsufficientMemoryError: the machine ran out of memory.
            EngineError: the engine failed.
        """
        ...

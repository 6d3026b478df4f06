"""What every inference engine can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Engine(Protocol):
    """Runs the body of a network, that is everything but its head."""

    @property
    def name(self) -> str:
        """Name of the engine."""
        ...

    @property
    def precision(self) -> str:
        """Number format that it computes in."""
        ...

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        """Return the features that enter the head.

        Args:
            windows: (n, channels, z, y, x), contiguous.
            cancelled: asked several times a second while the engine computes.

        Returns:
            (n, features, z, y, x).

        Raises:
            CancelledError: ``cancelled`` returned True.
            EngineError: the engine failed.
        """
        ...

"""The states of the panel."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """Where the panel is."""

    NO_VOLUME = auto()
    """Nothing can be segmented yet: no volume, or none of the packs fits it."""

    READY = auto()
    RUNNING = auto()
    CANCELLING = auto()
    DONE = auto()
    FAILED = auto()

    @property
    def at_work(self) -> bool:
        """Whether a run has not ended yet: nothing can be chosen until it has."""
        return self in (State.RUNNING, State.CANCELLING)

"""The states of the panel, and what each of them leaves to the user."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from KDSegmentatorPanel.translation import tr as _


class State(Enum):
    """Where the panel is; :func:`controls` says what that means."""

    NO_VOLUME = auto()
    """Nothing can be segmented yet: no volume, or none of the packs fits it."""

    READY = auto()
    RUNNING = auto()
    CANCELLING = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What is enabled and shown.

    Attributes:
        inputs_enabled: whether volume, task, size and options can be changed.
        inputs_reason: why not, for the tooltips; empty if they can.
        action: what the large button does.
        action_enabled: whether it can be pressed.
        action_tooltip: what it will do, or why it cannot be pressed.
        progress_shown: whether the progress bar is there.
    """

    inputs_enabled: bool
    inputs_reason: str
    action: Literal["segment", "cancel"]
    action_enabled: bool
    action_tooltip: str
    progress_shown: bool


def controls(state: State, problem: str = "") -> Controls:
    """Return what a state leaves to the user.

    Args:
        state: of the panel.
        problem: in ``NO_VOLUME``, what is missing and what to do about it.
    """
    at_work = state in (State.RUNNING, State.CANCELLING)
    blocked = state is State.NO_VOLUME
    if state is State.CANCELLING:
        tooltip = _("The run is being cancelled; this takes a moment.")
    elif state is State.RUNNING:
        tooltip = _("Stop the run. The scene stays as it is.")
    elif blocked:
        tooltip = problem
    else:
        tooltip = _("Segment the volume. Slicer can be used meanwhile.")
    return Controls(
        inputs_enabled=not at_work,
        inputs_reason=_("Wait until the run has ended, or cancel it.") if at_work else "",
        action="cancel" if at_work else "segment",
        action_enabled=not blocked and state is not State.CANCELLING,
        action_tooltip=tooltip,
        progress_shown=at_work,
    )

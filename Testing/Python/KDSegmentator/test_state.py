from __future__ import annotations

import pytest

from KDSegmentatorPanel.state import State, controls

PROBLEM = "Choose a volume."


@pytest.mark.parametrize("state", State)
def test_a_disabled_control_says_why(state: State) -> None:
    found = controls(state, PROBLEM)
    assert found.inputs_enabled or found.inputs_reason
    assert found.action_enabled or found.action_tooltip
    if state is State.NO_VOLUME:
        assert not found.action_enabled
        assert found.action_tooltip == PROBLEM


@pytest.mark.parametrize("state", State)
def test_the_button_cancels_while_a_run_is_at_work(state: State) -> None:
    at_work = state in (State.RUNNING, State.CANCELLING)
    found = controls(state, PROBLEM)
    assert found.action == ("cancel" if at_work else "segment")
    assert found.inputs_enabled is not at_work
    assert found.progress_shown is at_work


@pytest.mark.parametrize("state", [State.READY, State.RUNNING, State.DONE, State.FAILED])
def test_where_the_button_can_be_pressed(state: State) -> None:
    assert controls(state).action_enabled


def test_cancelling_cannot_be_cancelled_again() -> None:
    assert not controls(State.CANCELLING).action_enabled

from __future__ import annotations

import signal

import pytest

from KDSegmentatorLib.cli.terminal import listening
from KDSegmentatorLib.errors import CancelledError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "batch system"])
def test_the_first_is_a_request_and_the_second_breaks_off(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), listening() as interrupt:
        interrupt.check()
        signal.raise_signal(number)
        assert interrupt.requested()
        with pytest.raises(CancelledError):
            interrupt.check()
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_the_last_step_is_not_broken_off() -> None:
    with listening() as interrupt:
        interrupt.finish()
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        interrupt.check()


def test_a_request_just_before_the_last_step_stops() -> None:
    with listening() as interrupt:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(CancelledError):
            interrupt.finish()


def test_a_process_that_ignores_it_goes_on() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with listening() as interrupt:
            signal.raise_signal(signal.SIGINT)
            assert not interrupt.requested()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import CancelledError
from KDSegmentatorLib.jobs import cancellation as module
from KDSegmentatorLib.jobs.cancellation import Cancellation, stdin_closed


def test_nothing_is_no_reason_to_stop(tmp_path: Path) -> None:
    cancellation = Cancellation(tmp_path / "cancel")
    assert not cancellation.requested()
    cancellation.check()


def test_the_file_is_a_reason_to_stop_for_good(tmp_path: Path) -> None:
    cancellation = Cancellation(tmp_path / "cancel")
    (tmp_path / "cancel").touch()
    assert cancellation.requested()
    (tmp_path / "cancel").unlink()
    assert cancellation.requested()
    with pytest.raises(CancelledError):
        cancellation.check()


def test_an_owner_who_has_gone_is_a_reason_to_stop(tmp_path: Path) -> None:
    gone = False
    cancellation = Cancellation(tmp_path / "cancel", lambda: gone)
    assert not cancellation.requested()
    gone = True
    assert cancellation.requested()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_system_may_ask_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    cancellation = Cancellation(tmp_path / "cancel")
    try:
        cancellation.listen()
        assert not cancellation.requested()
        signal.raise_signal(number)
        assert cancellation.requested()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_standard_input_is_closed_when_nobody_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(module, "_STDIN", reading)
    try:
        assert not stdin_closed()
        assert not stdin_closed()
        os.close(writing)
        assert stdin_closed()
        assert stdin_closed()
    finally:
        os.close(reading)


@pytest.mark.skipif(sys.platform == "win32", reason="what is written there stays unread on Windows")
def test_what_is_written_to_standard_input_does_not_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(module, "_STDIN", reading)
    try:
        os.write(writing, b"hello")
        assert not stdin_closed()
        assert not stdin_closed()
    finally:
        os.close(reading)
        os.close(writing)

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import JobError, PackError
from KDSegmentatorLib.jobs import worker_process
from KDSegmentatorLib.jobs.messages import (
    CANCEL_NAME,
    Broken,
    Log,
    Message,
    Progressed,
    RunChanged,
    Started,
    format_line,
)
from KDSegmentatorLib.jobs.worker_process import Worker, Workers, crash_error


class FakeChild:
    """A worker that says some messages, and ends or does not."""

    def __init__(self, *messages: Message, code: int | None = 0, silent: bool = True, endless: bool = False) -> None:
        self.ended: list[int | None] = []
        self.released = False
        self.sent: list[bytes] = []
        self._lines = [format_line(message).decode() for message in messages]
        self._code = code
        self._endless = endless
        self._silence = threading.Event()
        if silent:
            self._silence.set()

    def lines(self) -> Iterator[str]:
        yield from self._lines
        self._silence.wait(60)

    def exit_code(self) -> int | None:
        return self._code

    def end(self, worker: int | None) -> None:
        self.ended.append(worker)
        if not self._endless:
            self._code = -9 if self._code is None else self._code
            self._silence.set()

    def send(self, line: bytes) -> None:
        self.sent.append(line)

    def release(self) -> None:
        self.released = True


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRACE_SECONDS", "ENDING_SECONDS", "SILENCE_SECONDS"):
        monkeypatch.setattr(worker_process, name, 0.01)


def attended(child: FakeChild, folder: Path, *, cancel: bool = False) -> tuple[int | None, list[object]]:
    taken: list[object] = []
    cancelled = threading.Event()
    if cancel:
        cancelled.set()

    def take(event: Started | Log | Progressed | RunChanged) -> None:
        taken.append(event)

    code = Worker(lambda _: child, folder, None).run(folder, 0, cancelled, take)
    assert child.released
    return code, taken


def test_everything_is_passed_on(tmp_path: Path) -> None:
    said = (Started(pid=5, version="1"), Log(level="info", message="hello"))
    assert attended(FakeChild(*said, code=3), tmp_path) == (3, list(said))


def test_a_worker_that_ignores_a_cancel_is_ended(tmp_path: Path) -> None:
    child = FakeChild(Started(pid=5, version="1"), code=None, silent=False)
    assert attended(child, tmp_path, cancel=True)[0] == -9
    assert child.ended[0] == 5
    assert (tmp_path / CANCEL_NAME).exists()


def test_what_is_left_of_a_worker_that_has_ended_is_ended(tmp_path: Path) -> None:
    child = FakeChild(Started(pid=5, version="1"), code=1, silent=False)
    assert attended(child, tmp_path)[0] == 1
    assert child.ended[0] == 5


def test_a_worker_that_cannot_be_ended_is_not_waited_for(tmp_path: Path) -> None:
    assert attended(FakeChild(code=None, silent=True, endless=True), tmp_path)[0] is None


def test_an_error_is_raised_when_the_worker_has_ended(tmp_path: Path) -> None:
    child = FakeChild(Broken(kind="PackError", message="no pack"), code=None, silent=False)
    with pytest.raises(PackError, match="no pack"):
        attended(child, tmp_path)
    assert child.exit_code() == -9


@pytest.mark.parametrize("kind", ["SystemExit", "KDSegmentator", "annotations", ""])
def test_an_error_of_an_unknown_kind_is_an_error_of_the_job(tmp_path: Path, kind: str) -> None:
    with pytest.raises(JobError, match="strange"):
        attended(FakeChild(Broken(kind=kind, message="strange")), tmp_path)


def test_a_defect_of_the_taker_leaves_no_worker(tmp_path: Path) -> None:
    def take(event: object) -> None:
        raise ZeroDivisionError

    child = FakeChild(Started(pid=5, version="1"), code=None, silent=False)
    with pytest.raises(ZeroDivisionError), Workers(lambda _: child, tmp_path).worker(None) as worker:
        worker.run(tmp_path, 0, threading.Event(), take)
    assert child.ended == [5]
    assert child.released


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "exit code 1"),
        (-9, "ended by the system, SIGKILL"),
        (-99, "ended by the system, signal 99"),
        (None, "it did not answer any more"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals have names on Linux and macOS")
def test_a_crash_in_words(code: int | None, words: str) -> None:
    message = str(crash_error(code))
    assert f"({words}); nothing was changed" in message
    assert "take a smaller size" in message


def test_a_crash_on_windows_has_the_code_that_people_search_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process.sys, "platform", "win32")
    assert "exit code 0xC0000005" in str(crash_error(0xC0000005))

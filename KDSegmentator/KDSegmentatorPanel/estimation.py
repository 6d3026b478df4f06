"""Time and memory of every size, worked out in a process of its own.

Engines are loaded to see what they can do here. Inside Slicer's own process that could disturb Slicer (OpenVINO brings
its own version of libraries that Slicer uses), and on Windows a loaded package cannot be updated.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from KDSegmentatorLib.advice import advise, measure_speed
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.jobs.folder import long_path, owned_folder
from KDSegmentatorLib.jobs.launcher import Child, PythonLauncher
from KDSegmentatorLib.jobs.worker import stdin_closed
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.catalogue import Family, families
from KDSegmentatorLib.packs.regions import region_packs
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.past_runs import PastRuns
from KDSegmentatorPanel.outline import Outline

LONGEST_SECONDS = 60.0
"""For an answer; the first one on a machine takes some seconds, because the machine is measured."""

_QUESTION, _ANSWER = "question.json", "answer.json"
_COMMAND = ("-m", "KDSegmentatorPanel.estimation")
_WATCH_SECONDS = 0.5
_ENDING_SECONDS = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be estimated.

    Attributes:
        outline: of the volume.
        tasks: the families.
        user_packs: folder of the packs that the user installed.
        shipped_packs: folder of the packs that came with the extension.
        engine: see :class:`KDSegmentatorLib.options.RunOptions`, as for ``precision``.
        precision: number format.
        threads: CPU threads; None takes what the machine allows.
        mirroring: whether every window is run mirrored as well.
        entropy: whether the map of the uncertainty is wanted.
    """

    outline: Outline
    tasks: tuple[str, ...]
    user_packs: str
    shipped_packs: str
    engine: str
    precision: str
    threads: int | None
    mirroring: bool
    entropy: bool


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a size is expected to take: seconds, bytes, whether this machine was measured, and what is in the way."""

    seconds: float
    memory: int
    measured: bool
    obstacle: str


@dataclass(frozen=True, kw_only=True)
class TaskEstimate:
    """What a family means for the volume.

    Attributes:
        problem: why nothing can be said; empty if something can.
        sizes: by size.
        advised: size.
        reason: for the advice, one sentence.
    """

    problem: str = ""
    sizes: dict[str, Expected]
    advised: str = ""
    reason: str = ""


Answer = dict[str, TaskEstimate]
"""By task."""


def estimate_here(question: Question, runs: PastRuns | None = None) -> Answer:
    """Return the estimates, worked out in this process.

    Args:
        question: what is to be estimated.
        runs: on this computer; None takes those in the user's cache. Without any, the smallest network is run once.
    """
    runs = runs or PastRuns()
    store = PackStore(question.user_packs, question.shipped_packs)
    wanted = [family for family in families(store.packs()) if family.task in question.tasks]
    return {family.task: _estimate(question, family, store, runs) for family in wanted}


class EstimateProcess:
    """Works estimates out in a process of its own, one question at a time.

    Args:
        executable: Python; None takes the one that runs.
        temporary_folder: for the files of the process; None takes the system's place for temporary files.
    """

    def __init__(self, executable: str | None = None, temporary_folder: Path | None = None) -> None:
        self._launch = PythonLauncher(executable, command=_COMMAND, packages=(Path(__file__).resolve().parents[1],))
        self._temporary_folder = Path(tempfile.gettempdir()) if temporary_folder is None else temporary_folder
        self._lock = threading.Lock()
        self._child: Child | None = None

    def __call__(self, question: Question) -> Answer:
        """Return the estimates; empty if that did not work, which the log tells, or if :meth:`stop` was called."""
        try:
            with owned_folder(long_path(self._temporary_folder)) as folder:
                (folder / _QUESTION).write_text(json.dumps(dataclasses.asdict(question)), encoding="utf-8")
                output = self._output(folder)
                if output is None:
                    return {}
                try:
                    return _read_answer((folder / _ANSWER).read_text(encoding="utf-8"))
                except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                    _log.warning("there are no estimates of time and memory: %s\n%s", error, output)
        except (OSError, KDSegmentatorError) as error:
            _log.warning("there are no estimates of time and memory: %s", error)
        return {}

    def stop(self) -> None:
        """End the process that is at work with all of its processes, from any thread; later questions are answered."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.end(None)

    def _output(self, folder: Path) -> str | None:
        """Return what the process said until it ended; None if it was stopped."""
        with self._lock:
            child = self._child = self._launch(folder)
        alarm = threading.Timer(LONGEST_SECONDS, child.end, (None,))
        alarm.daemon = True
        alarm.start()
        try:
            output = "".join(child.lines())
        finally:
            alarm.cancel()
            _await_end(child)
            child.end(None)
            child.release()
            with self._lock:
                stopped, self._child = self._child is None, None
        return None if stopped else output


def _await_end(child: Child) -> None:
    deadline = time.monotonic() + _ENDING_SECONDS
    while child.exit_code() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def _estimate(question: Question, family: Family, store: PackStore, runs: PastRuns) -> TaskEstimate:
    options = RunOptions(
        engine=question.engine,
        precision=question.precision,
        threads=question.threads,
        mirroring=question.mirroring,
        entropy=question.entropy,
    )
    try:
        earlier = region_packs(family.packs, store.find)
        measure_speed(family, options, runs)
        advice = advise(family, question.outline.volume(), options, region_packs=earlier, runs=runs)
    except KDSegmentatorError as error:
        return TaskEstimate(problem=str(error), sizes={})
    sizes = {
        each.pack.manifest.size: Expected(
            seconds=each.seconds,
            memory=each.memory_bytes,
            measured=each.measured,
            obstacle=each.obstacle or "",
        )
        for each in advice.estimates
    }
    return TaskEstimate(sizes=sizes, advised=advice.chosen.pack.manifest.size, reason=advice.reason)


def _read_answer(text: str) -> Answer:
    document: dict[str, Any] = json.loads(text)
    return {
        task: TaskEstimate(
            problem=each["problem"],
            sizes={size: Expected(**expected) for size, expected in each["sizes"].items()},
            advised=each["advised"],
            reason=each["reason"],
        )
        for task, each in document.items()
    }


def _main() -> None:
    document = json.loads(Path(_QUESTION).read_text(encoding="utf-8"))
    outline = Outline.from_json(document.pop("outline"))
    question = Question(outline=outline, tasks=tuple(document.pop("tasks")), **document)
    answer = {task: dataclasses.asdict(each) for task, each in estimate_here(question).items()}
    with atomic_output(_ANSWER) as unfinished:
        unfinished.write_text(json.dumps(answer), encoding="utf-8")


def _end_with_owner() -> None:
    """End this process when nobody holds its standard input any more: the application was closed or crashed."""
    while not stdin_closed():
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_owner, daemon=True).start()
    _main()

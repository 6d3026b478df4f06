"""Time and memory of every size, worked out in a process of its own.

Engines are loaded to see what they can do here. Inside Slicer's own process that could disturb Slicer (OpenVINO brings
its own version of libraries that Slicer uses), and on Windows a loaded package cannot be updated.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import KDSegmentatorLib
from KDSegmentatorLib.advisor.advice import SpeedOf, advise
from KDSegmentatorLib.engines.candidates import EngineRequest
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.machine.hardware import detect_hardware
from KDSegmentatorLib.packs.catalogue import Family, families
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.outline import Outline

LONGEST_SECONDS = 60.0
"""For an answer; the first one on a machine takes some seconds, because the machine is measured."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be estimated.

    Attributes:
        outline: of the volume.
        tasks: the families.
        user_packs: folder of the packs that the user installed.
        shipped_packs: folder of the packs that came with the extension.
        engine: see :class:`KDSegmentatorLib.engines.candidates.EngineRequest`, as for ``precision``.
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


def estimate_here(question: Question, speed_of: SpeedOf | None = None) -> Answer:
    """Return the estimates, worked out in this process.

    Args:
        question: what is to be estimated.
        speed_of: tells how fast the machine is; None measures it.
    """
    store = PackStore(question.user_packs, question.shipped_packs)
    wanted = [family for family in families(store.packs()) if family.task in question.tasks]
    return {family.task: _estimate(question, family, speed_of) for family in wanted}


def estimate_apart(question: Question, executable: str | None = None) -> Answer:
    """Return the estimates, worked out in a process of its own; empty if that did not work, which the log tells.

    Args:
        question: what is to be estimated.
        executable: Python; None takes the one that runs.
    """
    package_folders = {str(Path(file).resolve().parents[1]) for file in (__file__, KDSegmentatorLib.__file__)}
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*sorted(package_folders), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
    }
    try:
        done = subprocess.run(  # noqa: S603 - a program of our own, no shell
            [executable or sys.executable, "-m", "KDSegmentatorPanel.estimation"],
            input=json.dumps(dataclasses.asdict(question)),
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            timeout=LONGEST_SECONDS,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows only
            check=True,
        )
        return _read_answer(done.stdout)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, subprocess.SubprocessError) as error:
        details = getattr(error, "stderr", None) or ""
        _log.warning("there are no estimates of time and memory: %s %s", error, details)
        return {}


def _estimate(question: Question, family: Family, speed_of: SpeedOf | None) -> TaskEstimate:
    request = EngineRequest(engine=question.engine, precision=question.precision, threads=question.threads)
    try:
        advice = advise(
            family,
            question.outline.volume(),
            detect_hardware(),
            request=request,
            mirroring=question.mirroring,
            entropy=question.entropy,
            speed_of=speed_of,
        )
    except KDSegmentatorError as error:
        return TaskEstimate(problem=str(error), sizes={})
    sizes = {
        each.pack.manifest.size: Expected(
            seconds=each.estimate.seconds,
            memory=each.estimate.memory,
            measured=each.estimate.measured,
            obstacle=each.obstacle or "",
        )
        for each in advice.sizes
    }
    return TaskEstimate(sizes=sizes, advised=advice.pack.manifest.size, reason=advice.reason)


def _read_answer(text: str) -> Answer:
    """Return the last line of the output as an answer; what libraries print comes before it."""
    document: dict[str, Any] = json.loads(text.rstrip().rpartition("\n")[2])
    return {
        task: TaskEstimate(
            problem=each["problem"],
            sizes={size: Expected(**expected) for size, expected in each["sizes"].items()},
            advised=each["advised"],
            reason=each["reason"],
        )
        for task, each in document.items()
    }


def _main(questions: Sequence[str]) -> None:
    document = json.loads("".join(questions))
    outline = Outline.from_json(document.pop("outline"))
    question = Question(outline=outline, tasks=tuple(document.pop("tasks")), **document)
    answer = {task: dataclasses.asdict(each) for task, each in estimate_here(question).items()}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main(sys.stdin.readlines())

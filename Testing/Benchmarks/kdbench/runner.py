"""Subjects take turns, each in a process started anew, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from kdbench.results import Measured, Outcome, Run
from KDSegmentatorLib.machine.hardware import detect_hardware
from KDSegmentatorLib.packs.strict_json import build, parse

ROOT = Path(__file__).resolve().parents[3]
_KILLED = -9

Argument = str | int | float | bool | None | Sequence["Argument"] | Mapping[str, "Argument"]


class MeasurementError(Exception):
    """A measurement failed; the message is for the page."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to be measured.

    Attributes:
        name: unique within its part.
        function: ``module:name`` of what the process calls; see :mod:`kdbench.worker`.
        arguments: its keyword arguments, as JSON takes them.
        environment: variables to set for the process.
        labels: see :class:`kdbench.results.Outcome`.
        facts: see :class:`kdbench.results.Outcome`.
        rounds: how many runs; 0 leaves the subject out, whatever was measured before stays.
        warm_up: whether to make one run first that does not count, which fills caches on the disk.
        memory_needed: bytes that have to be free; 0 if that is not known.
        impossible: why it cannot be measured here; None if it can.
    """

    name: str
    function: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 1
    warm_up: bool = False
    memory_needed: int = 0
    impossible: str | None = None


def run_in_new_process(subject: Subject) -> Run:
    """Run a subject once.

    Raises:
        MeasurementError: it failed; the message holds the last line that it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="kdbench-") as folder:
        result = Path(folder) / "result.json"
        paths = [str(ROOT), str(ROOT / "Testing" / "Benchmarks"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            **subject.environment,
        }
        command = [sys.executable, "-m", "kdbench.worker", str(result), subject.function, json.dumps(subject.arguments)]
        start = time.perf_counter()
        finished = subprocess.run(
            command, check=False, capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment
        )
        seconds = time.perf_counter() - start
        if finished.returncode or not result.is_file():
            raise MeasurementError(_failure(finished))
        content = parse(result.read_text(encoding="utf-8"))
    return Run(
        wall_seconds=seconds,
        cpu_seconds=content["cpu_seconds"],
        peak_bytes=content["peak_bytes"],
        inside=build(Measured, content["inside"]),
    )


def interleaved(
    subjects: Sequence[Subject],
    versions: Mapping[str, str],
    *,
    run: Callable[[Subject], Run] = run_in_new_process,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[str, Outcome]]:
    """Measure subjects in turns, and yield a subject's name and outcome so far after each of its runs.

    A round runs every subject that wants that many once, every other round backwards. A subject that fails takes no
    further part; what it measured before stays.

    Args:
        subjects: with different names.
        versions: of the packages that are measured.
        run: makes one run.
        say: takes a line for the user.
    """
    wanted = [subject for subject in subjects if subject.rounds]
    outcomes = {subject.name: _nothing_yet(subject, versions) for subject in wanted}
    for subject in wanted:
        outcomes[subject.name] = _prepared(subject, outcomes[subject.name], run, say)
        if outcomes[subject.name].problem is not None:
            yield subject.name, outcomes[subject.name]
    for number in range(max((subject.rounds for subject in wanted), default=0)):
        for subject in wanted if number % 2 == 0 else reversed(wanted):
            before = outcomes[subject.name]
            if number >= subject.rounds or before.problem is not None:
                continue
            outcomes[subject.name] = _with_another_run(subject, before, run, say)
            yield subject.name, outcomes[subject.name]


def load_average() -> float | None:
    """Return how busy the machine is (one minute), None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _nothing_yet(subject: Subject, versions: Mapping[str, str]) -> Outcome:
    return Outcome(
        labels=dict(subject.labels),
        facts=dict(subject.facts),
        runs=(),
        problem=subject.impossible,
        date=_now(),
        load_average=load_average(),
        versions=dict(versions),
    )


def _prepared(subject: Subject, outcome: Outcome, run: Callable[[Subject], Run], say: Callable[[str], None]) -> Outcome:
    """Return the outcome with a problem if the subject cannot take part; warm it up if it can."""
    available = detect_hardware().available_memory
    if outcome.problem is None and available is not None and available < subject.memory_needed:
        outcome = replace(
            outcome,
            problem=f"skipped: it needs about {subject.memory_needed / 1e9:.1f} GB of memory, "
            f"{available / 1e9:.1f} GB are free",
        )
    if outcome.problem is None and subject.warm_up:
        try:
            run(subject)
        except MeasurementError as error:
            outcome = replace(outcome, problem=f"failed: {error}")
    if outcome.problem is not None:
        say(f"{subject.name}: {outcome.problem}")
    return outcome


def _with_another_run(
    subject: Subject, before: Outcome, run: Callable[[Subject], Run], say: Callable[[str], None]
) -> Outcome:
    try:
        measured = run(subject)
    except MeasurementError as error:
        say(f"{subject.name}: {error}")
        return replace(before, problem=f"failed: {error}", date=_now())
    memory = "" if measured.peak_bytes is None else f", {measured.peak_bytes / 1e9:.2f} GB"
    say(f"{subject.name}: {measured.wall_seconds:.2f} s{memory}")
    return replace(before, runs=(*before.runs, measured), date=_now())


def _failure(finished: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in finished.stderr.splitlines() if line.strip()]
    if finished.returncode == _KILLED:
        return "the system ended it, most likely because memory ran out"
    return lines[-1] if lines else f"it ended with the exit code {finished.returncode} and said nothing"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

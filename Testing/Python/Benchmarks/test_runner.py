"""Subjects take turns, and what goes wrong with one of them is said and stops nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdbench.results import Measured, Outcome, Run
from kdbench.runner import ROOT, MeasurementError, Subject, interleaved, run_in_new_process

RUN = Run(wall_seconds=2.0, cpu_seconds=3.0, peak_bytes=4, inside=Measured(details={"inside": 1.0}))
MORE_THAN_ANY_MACHINE_HAS = 1 << 60


def subject(name: str, **settings: object) -> Subject:
    return Subject(name=name, function="none:none", **settings)  # type: ignore[arg-type]


def recorder(calls: list[str], failing: str = "") -> Callable[[Subject], Run]:
    def run(subject: Subject) -> Run:
        calls.append(subject.name)
        if subject.name == failing:
            raise MeasurementError("it broke")
        return RUN

    return run


def measured(subjects: list[Subject], calls: list[str], failing: str = "") -> dict[str, Outcome]:
    return dict(interleaved(subjects, {"numpy": "2"}, run=recorder(calls, failing), say=lambda line: None))


def test_every_other_round_goes_backwards_and_rare_subjects_stop_early() -> None:
    calls: list[str] = []
    outcomes = measured([subject("a", rounds=3), subject("b", rounds=1), subject("c", rounds=2)], calls)
    assert calls == ["a", "b", "c", "c", "a", "a"]
    assert {name: len(outcome.runs) for name, outcome in outcomes.items()} == {"a": 3, "b": 1, "c": 2}


def test_warm_up_comes_first_and_does_not_count() -> None:
    calls: list[str] = []
    outcomes = measured([subject("a", rounds=1), subject("b", rounds=1, warm_up=True)], calls)
    assert calls == ["b", "a", "b"]
    assert len(outcomes["b"].runs) == 1


def test_no_rounds_leave_a_subject_out() -> None:
    assert list(measured([subject("a", rounds=0), subject("b")], [])) == ["b"]


@pytest.mark.parametrize("warm_up", [True, False])
def test_a_failure_ends_that_subject_only_and_is_kept(warm_up: bool) -> None:
    calls: list[str] = []
    outcomes = measured([subject("a", rounds=2, warm_up=warm_up), subject("b", rounds=2)], calls, failing="a")
    assert calls.count("a") == 1
    assert outcomes["a"].problem == "failed: it broke"
    assert outcomes["a"].runs == ()
    assert len(outcomes["b"].runs) == 2


def test_what_cannot_be_measured_is_said_and_not_tried() -> None:
    calls: list[str] = []
    outcomes = measured(
        [subject("a", impossible="no instructions"), subject("b", memory_needed=MORE_THAN_ANY_MACHINE_HAS)], calls
    )
    assert calls == []
    assert outcomes["a"].problem == "no instructions"
    problem = outcomes["b"].problem
    assert problem is not None
    assert "GB are free" in problem


def test_a_process_tells_what_it_cost(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    run = run_in_new_process(
        Subject(
            name="scan",
            function="kdbench.scans:make_mr",
            arguments={"path": str(path), "size": (8, 9, 10), "spacing": (1, 1, 1)},
        )
    )
    assert path.is_file()
    assert run.wall_seconds > 0
    assert run.cpu_seconds > 0
    assert run.inside == Measured()
    if sys.platform == "linux":
        assert run.peak_bytes is not None
        assert run.peak_bytes > 1e7


def test_a_failed_process_is_reported_with_its_last_line() -> None:
    with pytest.raises(MeasurementError, match="ModuleNotFoundError: No module named 'nowhere'"):
        run_in_new_process(Subject(name="x", function="nowhere:nothing"))


@pytest.mark.skipif(sys.platform == "win32", reason="only on Windows no signal ends a process")
def test_a_killed_process_is_taken_for_out_of_memory(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text("import os\ndef die(): os.kill(os.getpid(), 9)\n")
    paths = [str(ROOT), str(ROOT / "Testing" / "Benchmarks"), str(tmp_path)]
    killed = Subject(name="x", function="dying:die", environment={"PYTHONPATH": os.pathsep.join(paths)})
    with pytest.raises(MeasurementError, match="memory ran out"):
        run_in_new_process(killed)

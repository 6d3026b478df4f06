"""The file of results: complete, and never two machines in one table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.results import Machine, Measured, Operation, Outcome, Results, Run, read_results, write_results
from KDSegmentatorLib.errors import InvalidSettingsError

HERE = Machine(processor="here", logical_cores=2, system="Linux", abilities=("FP32",))
THERE = replace(HERE, processor="there")


def run(wall: float, **details: float) -> Run:
    operation = Operation(kind="Convolution", coarseness=2, seconds=0.5, flops=1e9, bytes=3.0)
    inside = Measured(details=details, operations=(operation,))
    return Run(wall_seconds=wall, cpu_seconds=2 * wall, peak_bytes=None, inside=inside)


def outcome(*runs: Run, problem: str | None = None) -> Outcome:
    return Outcome(
        labels={"size": "x1"},
        facts={"voxels": 3.0},
        runs=runs,
        problem=problem,
        date="2026-11-24T12:00:00+00:00",
        load_average=None,
        versions={"numpy": "2"},
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    results = Results().having("paper", HERE, {"a": outcome(run(1.5, inside=0.25)), "b": outcome(problem="failed")})
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results


def test_no_file_means_nothing_was_measured(tmp_path: Path) -> None:
    assert read_results(tmp_path / "results.json") == Results()


@pytest.mark.parametrize("text", ["", "{", '{"parts": 3}', '{"parts": {}, "more": 1}'])
def test_a_damaged_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InvalidSettingsError, match=r"results\.json.*delete it"):
        read_results(path)


def test_new_outcomes_join_those_of_the_same_machine() -> None:
    results = Results().having("paper", HERE, {"a": outcome(run(1)), "b": outcome(run(2))})
    results = results.having("paper", HERE, {"b": outcome(run(3))}).having("start", HERE, {"c": outcome(run(4))})
    paper = results.parts["paper"].outcomes
    assert {name: each.wall_seconds for name, each in paper.items()} == {"a": 1, "b": 3}
    assert list(results.parts) == ["paper", "start"]


def test_another_machine_starts_its_part_anew() -> None:
    results = Results().having("paper", HERE, {"a": outcome(run(1))}).having("start", HERE, {"c": outcome(run(4))})
    results = results.having("paper", THERE, {"b": outcome(run(2))})
    assert list(results.parts["paper"].outcomes) == ["b"]
    assert results.parts["paper"].machine == THERE
    assert results.parts["start"].machine == HERE


def test_a_subject_that_could_not_run_again_keeps_its_runs() -> None:
    results = Results().having("paper", HERE, {"a": outcome(run(1))})
    results = results.having("paper", HERE, {"a": outcome(problem="skipped"), "b": outcome(problem="skipped")})
    assert results.parts["paper"].outcomes["a"].wall_seconds == 1
    assert results.parts["paper"].outcomes["b"].problem == "skipped"


def test_medians() -> None:
    three = outcome(run(3, inside=1), run(1), run(2, inside=3))
    assert three.wall_seconds == 2
    assert three.cpu_seconds == 4
    assert three.peak_bytes is None
    assert three.detail("inside") == 2
    assert three.detail("nothing") is None
    assert outcome().wall_seconds is None

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("openvino", reason="needs OpenVINO")
from KDSegmentatorLib.advisor import calibration
from KDSegmentatorLib.advisor.array_speed import ArrayTrial
from KDSegmentatorLib.advisor.calibration import DISTURBED_SECONDS, TRIALS, Calibration
from KDSegmentatorLib.advisor.speed import NOMINAL_FLOPS, Speed
from KDSegmentatorLib.engines.candidates import Candidate
from KDSegmentatorLib.errors import CancelledError, EngineError
from KDSegmentatorLib.packs.manifest import Precision

WIDTHS = tuple(width for width, _ in TRIALS)


def candidate(precision: Precision = "float32", engine: str = "openvino", device: str = "cpu") -> Candidate:
    return Candidate(engine=engine, device=device, precision=precision, reason="")


@dataclass
class Trials:
    """Stands in for timing an engine: a million operations a second for each channel, one second at a time.

    Attributes:
        seconds: what timing one width takes.
        interruption: see :class:`ArrayTrial`.
        error: raised instead.
        asked: (precision, threads, width, shared cores) of each.
    """

    seconds: float = 0.0
    interruption: float = 1.0
    error: Exception | None = None
    asked: list[tuple[str, int | None, int, int | None]] = field(default_factory=list)
    now: float = 0.0

    def time(self, chosen: Candidate, threads: int | None, width: int, edges: Any, **options: Any) -> float | None:
        self.asked.append((chosen.precision, threads, width, options["shared_cores"]))
        if self.error is not None:
            raise self.error
        if self.now + self.seconds > options["until"]:
            self.now = max(self.now, options["until"])
            return None
        self.now += self.seconds
        return 1e6 * width


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    made = Trials()
    monkeypatch.setattr(calibration, "engine_flops", made.time)
    monkeypatch.setattr(calibration, "array_trial", lambda: ArrayTrial(speed=2.0, interruption=made.interruption))
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: made.now)
    return made


MEASURED = Speed(flops=tuple((width, 1e6 * width) for width in WIDTHS), arrays=2.0)


def stored(folder: Path) -> list[Path]:
    return sorted((folder / "speed").glob("*.json"))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_real_engine_is_measured_once_on_this_machine(engine: str, tmp_path: Path) -> None:
    measured = Calibration(tmp_path, budget=20.0).speed(candidate(engine=engine), 1)
    assert measured.measured
    assert [width for width, _ in measured.flops] == list(WIDTHS)
    assert all(1e7 < rate < 1e15 for _, rate in measured.flops)
    assert 0.01 < measured.arrays < 100
    assert Calibration(tmp_path, budget=0.0).speed(candidate(engine=engine), 1) == measured


def test_what_was_measured_is_remembered(trials: Trials, tmp_path: Path) -> None:
    for _ in range(2):
        assert Calibration(tmp_path).speed(candidate(), None) == MEASURED
    assert trials.asked == [("float32", None, width, None) for width in WIDTHS]


@pytest.mark.parametrize(
    ("other", "threads"),
    [
        (candidate("bfloat16"), None),
        (candidate(engine="onnxruntime"), None),
        (candidate(device="gpu"), None),
        (candidate(), 1),
    ],
)
def test_another_engine_precision_device_or_number_of_threads_is_another_speed(
    trials: Trials, tmp_path: Path, other: Candidate, threads: int | None
) -> None:
    Calibration(tmp_path).speed(candidate(), None)
    Calibration(tmp_path).speed(other, threads)
    assert len(trials.asked) == 2 * len(WIDTHS)


@pytest.mark.parametrize("changed", ["processor_name", "engine_version"])
def test_another_processor_or_version_is_measured_anew(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    Calibration(tmp_path).speed(candidate(), None)
    monkeypatch.setattr(calibration, changed, lambda *_: "another")
    Calibration(tmp_path).speed(candidate(), None)
    assert len(trials.asked) == 2 * len(WIDTHS)


def alter(path: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    return json.dumps(content).encode()


DAMAGE: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda _: b"",
    "cut off": lambda path: path.read_bytes()[:-7],
    "not text": lambda _: b"\xff\xfe\x00",
    "another document": lambda _: b"[1, 2]",
    "nested without end": lambda _: b"[" * 100_000,
    "a digit too many": lambda path: path.read_bytes().replace(b"8000000.0", b"9" * 5000),
    "not a number": lambda path: path.read_bytes().replace(b"8000000.0", b"NaN"),
    "no speed at all": lambda path: path.read_bytes().replace(b"8000000.0", b"0.0"),
    "negative": lambda path: path.read_bytes().replace(b"8000000.0", b"-1.0"),
    "no widths": lambda path: alter(path, lambda content: content["speed"].update(flops=[])),
    "widths in disorder": lambda path: alter(path, lambda content: content["speed"]["flops"].reverse()),
    "a width twice": lambda path: alter(
        path, lambda content: content["speed"].update(flops=[content["speed"]["flops"][0]] * 2)
    ),
    "numpy without speed": lambda path: alter(path, lambda content: content["speed"].update(arrays=0)),
    "a field too many": lambda path: alter(path, lambda content: content.update(more=1)),
    "a field missing": lambda path: alter(path, lambda content: content.pop("disturbed")),
    "of another machine": lambda path: alter(path, lambda content: content.update(key="another")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_measured_anew_and_replaced(trials: Trials, tmp_path: Path, damage: str) -> None:
    Calibration(tmp_path).speed(candidate(), None)
    (path,) = stored(tmp_path)
    intact = path.read_bytes()
    damaged = DAMAGE[damage](path)
    assert damaged != intact
    path.write_bytes(damaged)
    assert Calibration(tmp_path).speed(candidate(), None) == MEASURED
    assert len(trials.asked) == 2 * len(WIDTHS)
    assert path.read_bytes() == intact


def test_a_folder_in_the_files_place_stops_nothing(trials: Trials, tmp_path: Path) -> None:
    Calibration(tmp_path).speed(candidate(), None)
    (path,) = stored(tmp_path)
    path.unlink()
    path.mkdir()
    assert Calibration(tmp_path).speed(candidate(), None) == MEASURED


def test_a_cache_that_cannot_be_written_stops_nothing(trials: Trials, tmp_path: Path) -> None:
    (tmp_path / "speed").write_text("a file")
    assert Calibration(tmp_path).speed(candidate(), None) == MEASURED
    assert (tmp_path / "speed").read_text() == "a file"


@pytest.mark.parametrize(("age", "times"), [(0.0, 1), (DISTURBED_SECONDS + 60, 2), (-DISTURBED_SECONDS, 2)])
def test_what_other_programs_disturbed_is_measured_again_later(
    trials: Trials, tmp_path: Path, age: float, times: int
) -> None:
    trials.interruption = 1.5
    Calibration(tmp_path).speed(candidate(), 2)
    assert [asked[3] for asked in trials.asked] == [2] * len(WIDTHS)  # the cores that are shared
    (path,) = stored(tmp_path)
    os.utime(path, (time.time() - age, time.time() - age))
    Calibration(tmp_path).speed(candidate(), 2)
    assert len(trials.asked) == times * len(WIDTHS)


def test_what_nobody_disturbed_is_kept(trials: Trials, tmp_path: Path) -> None:
    Calibration(tmp_path).speed(candidate(), None)
    (path,) = stored(tmp_path)
    os.utime(path, (0, 0))
    Calibration(tmp_path).speed(candidate(), None)
    assert len(trials.asked) == len(WIDTHS)


def test_a_graphics_card_shares_no_cores(trials: Trials, tmp_path: Path) -> None:
    trials.interruption = 1.5
    Calibration(tmp_path).speed(candidate(device="gpu"), None)
    assert [asked[3] for asked in trials.asked] == [None] * len(WIDTHS)


def test_another_graphics_card_or_driver_is_measured_anew(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, expected in (("Arc A770, 32.0", 1), ("Arc A770, 32.0", 1), ("Arc A770, 33.0", 2)):
        monkeypatch.setattr(calibration, "device_name", lambda *_, name=name: name)
        Calibration(tmp_path).speed(candidate(device="gpu"), None)
        assert len(trials.asked) == expected * len(WIDTHS)


@pytest.mark.parametrize(("name", "kept"), [("Arc A770, 32.0", True), (None, False)])
def test_a_graphics_card_without_a_name_is_measured_again_after_a_while(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, kept: bool
) -> None:
    monkeypatch.setattr(calibration, "device_name", lambda *_: name)
    Calibration(tmp_path).speed(candidate(device="gpu"), None)
    (path,) = stored(tmp_path)
    old = path.stat().st_mtime - 2 * DISTURBED_SECONDS
    os.utime(path, (old, old))
    Calibration(tmp_path).speed(candidate(device="gpu"), None)
    assert len(trials.asked) == (1 if kept else 2) * len(WIDTHS)


def test_an_engine_that_fails_leaves_a_guess_for_a_while(
    trials: Trials, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trials.error = EngineError("it broke down")
    guess = Calibration(tmp_path).speed(candidate(), 2)
    assert guess == Speed(flops=tuple((width, 4 * rate) for width, rate in NOMINAL_FLOPS), arrays=2.0, measured=False)
    assert "openvino float32 on cpu could not be timed: it broke down" in caplog.text
    assert Calibration(tmp_path).speed(candidate(), 2) == guess
    assert len(trials.asked) == 1
    (path,) = stored(tmp_path)
    os.utime(path, (0, 0))
    trials.error = None
    assert Calibration(tmp_path).speed(candidate(), 2) == MEASURED


def test_without_an_engine_numpy_alone_is_measured(trials: Trials, tmp_path: Path) -> None:
    guess = Calibration(tmp_path).speed(None, 1)
    assert guess == Speed(flops=tuple((width, 2 * rate) for width, rate in NOMINAL_FLOPS), arrays=2.0, measured=False)
    assert trials.asked == []
    assert len(stored(tmp_path)) == 1


def test_two_formats_fit_into_the_budget_and_a_third_is_measured_next_time(trials: Trials, tmp_path: Path) -> None:
    trials.seconds = 0.24  # four widths fit into half of it
    asked = Calibration(tmp_path, budget=2.0)
    first, second, third = (asked.speed(candidate(precision), None) for precision in ("int8", "bfloat16", "float32"))
    assert trials.now <= 2.0
    assert first == second == MEASURED
    assert not third.measured
    assert len(stored(tmp_path)) == 2
    assert Calibration(tmp_path).speed(candidate("float32"), None) == MEASURED


def test_one_format_does_not_take_the_time_of_the_other(trials: Trials, tmp_path: Path) -> None:
    asked = Calibration(tmp_path, budget=4.0)
    trials.seconds = 1.9  # too slow for anything
    assert not asked.speed(candidate("int8"), None).measured
    trials.seconds = 0.4
    assert asked.speed(candidate("bfloat16"), None) == MEASURED


def test_no_time_for_anything_is_a_guess_that_is_not_kept(trials: Trials, tmp_path: Path) -> None:
    trials.seconds = 5.0
    assert not Calibration(tmp_path).speed(candidate(), None).measured
    assert stored(tmp_path) == []


def test_cancelling_while_a_real_engine_computes(tmp_path: Path) -> None:
    with pytest.raises(CancelledError):
        Calibration(tmp_path, cancelled=lambda: True).speed(candidate(), 1)
    assert stored(tmp_path) == []


def test_the_users_own_cache_is_the_default(trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSEGMENTATOR_CACHE", str(tmp_path / "own"))
    Calibration().speed(candidate(), None)
    assert len(stored(tmp_path / "own")) == 1

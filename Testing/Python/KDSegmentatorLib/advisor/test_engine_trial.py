from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("openvino", reason="needs OpenVINO")
from KDSegmentatorLib.advisor import engine_trial
from KDSegmentatorLib.advisor.engine_trial import engine_flops
from KDSegmentatorLib.advisor.trial_network import trial_flops
from KDSegmentatorLib.engines.candidates import Candidate
from KDSegmentatorLib.errors import CancelledError, EngineError
from KDSegmentatorLib.packs.manifest import Precision

LATER = float("inf")


def candidate(engine: str = "openvino", precision: Precision = "float32", device: str = "cpu") -> Candidate:
    return Candidate(engine=engine, device=device, precision=precision, reason="")


def never() -> bool:
    return False


def rate(
    chosen: Candidate,
    edges: tuple[int, ...] = (8,),
    *,
    until: float = LATER,
    shared_cores: int | None = None,
    cancelled: Callable[[], bool] = never,
) -> float | None:
    return engine_flops(chosen, 1, 4, edges, until=until, shared_cores=shared_cores, cancelled=cancelled)


class FakeEngine:
    """Lets time go by on two clocks instead of computing."""

    name, device, precision = "fake", "cpu", "float32"

    def __init__(self, edge: int, clocks: Clocks) -> None:
        self.edge, self.clocks = edge, clocks

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        assert windows.shape == (1, 4, self.edge, self.edge, self.edge)
        self.clocks.ran.append(self.edge)
        wall, computed = self.clocks.costs[self.edge]
        self.clocks.wall += wall if len(self.clocks.ran) > 1 else 10 * wall  # the first run gets the memory
        self.clocks.computed += computed
        if cancelled():
            raise CancelledError("cancelled; nothing was written")
        return windows


class Clocks:
    """Wall time and processor time, and what one run on an edge adds to them."""

    def __init__(self, **costs: tuple[float, float]) -> None:
        self.costs = {int(name.removeprefix("edge")): cost for name, cost in costs.items()}
        self.wall = self.computed = 0.0
        self.ran: list[int] = []


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clocks]:
    def make(**costs: tuple[float, float]) -> Clocks:
        made = Clocks(**costs)
        monkeypatch.setattr(engine_trial, "load_engine", lambda *_, patch_size, **__: FakeEngine(patch_size[0], made))
        monkeypatch.setattr(engine_trial.time, "perf_counter", lambda: made.wall)
        monkeypatch.setattr(engine_trial.time, "process_time", lambda: made.computed)
        return made

    return make


@pytest.mark.parametrize(
    ("engine", "precision"),
    [("openvino", "float32"), ("openvino", "bfloat16"), ("openvino", "int8"), ("onnxruntime", "float32")],
)
def test_every_engine_is_timed_in_every_precision(engine: str, precision: Precision) -> None:
    found = rate(candidate(engine, precision))
    assert found is not None
    assert 1e6 < found < 1e15


def test_the_fastest_run_after_the_first_counts(clocks: Callable[..., Clocks]) -> None:
    made = clocks(edge8=(0.02, 0.02))
    assert rate(candidate()) == pytest.approx(trial_flops(4, 2, 8**3) / 0.02)
    assert made.ran == [8] * 5


def test_a_window_that_is_done_too_fast_to_be_timed_makes_place_for_a_larger_one(
    clocks: Callable[..., Clocks],
) -> None:
    made = clocks(edge8=(0.001, 0.001), edge16=(0.02, 0.02), edge32=(0.2, 0.2))
    assert rate(candidate(), (8, 16, 32)) == pytest.approx(trial_flops(4, 2, 16**3) / 0.02)
    assert set(made.ran) == {8, 16}


def test_without_time_for_the_larger_one_the_first_counts(clocks: Callable[..., Clocks]) -> None:
    clocks(edge8=(0.001, 0.001), edge16=(1.0, 1.0))
    assert rate(candidate(), (8, 16), until=0.014) == pytest.approx(trial_flops(4, 2, 8**3) / 0.001)


def test_nothing_is_known_without_time(clocks: Callable[..., Clocks]) -> None:
    made = clocks(edge8=(0.02, 0.02))
    assert rate(candidate(), until=0.0) is None
    assert made.ran == []
    assert rate(candidate(), until=0.1) is None  # the first run is broken off
    assert made.ran == [8]


def test_one_run_is_better_than_none(clocks: Callable[..., Clocks]) -> None:
    made = clocks(edge8=(0.02, 0.02))
    assert rate(candidate(), until=0.21) == pytest.approx(trial_flops(4, 2, 8**3) / 0.2)
    assert made.ran == [8, 8]


@pytest.mark.parametrize(
    ("wall", "computed", "seconds"),
    [
        (0.04, 0.04, 0.02),  # it had one of its two cores
        (0.025, 0.04, 0.025),  # not much longer than it should take: it waited for itself
        (0.04, 0.0, 0.04),  # a clock that does not tell
    ],
)
def test_on_a_busy_machine_what_was_computed_counts(
    clocks: Callable[..., Clocks], wall: float, computed: float, seconds: float
) -> None:
    clocks(edge8=(wall, computed))
    assert rate(candidate(), shared_cores=2) == pytest.approx(trial_flops(4, 2, 8**3) / seconds)
    clocks(edge8=(wall, computed))
    assert rate(candidate()) == pytest.approx(trial_flops(4, 2, 8**3) / wall)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_cancelling_a_real_engine(engine: str) -> None:
    answers = iter([False, False])
    with pytest.raises(CancelledError):
        engine_flops(
            candidate(engine),
            1,
            32,
            (96,),
            until=LATER,
            shared_cores=None,
            cancelled=lambda: next(answers, True),
        )


def test_a_real_engine_is_broken_off_when_time_is_up() -> None:
    until = time.perf_counter() + 0.2
    assert engine_flops(candidate(), 1, 96, (64,), until=until, shared_cores=None, cancelled=never) is None


def test_an_engine_that_fails_says_so() -> None:
    with pytest.raises(EngineError):
        rate(candidate(device="npu"))

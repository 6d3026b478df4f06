from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib import advice as module
from KDSegmentatorLib.advice import MEMORY_SHARE, Advice, advise, choose, estimate, measure_speed, memory_warning
from KDSegmentatorLib.engines import candidates
from KDSegmentatorLib.errors import CancelledError, EngineUnavailableError, GeometryError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.machine.hardware import Hardware, detect_hardware
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.catalogue import Family, select
from KDSegmentatorLib.packs.manifest import Evaluation, Interval, LabelScore, ReducedPrecision
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.past_runs import PastRuns, way_to_run
from KDSegmentatorLib.segmenter import Segmenter
from support.generated_family import ALPHAS, build_size
from support.generated_packs import manifest
from support.known_runs import KnownRuns, past_run
from support.reduced_packs import claim_openvino_abilities

TWO_CORES = Hardware(logical_cores=2, available_memory=8_000_000_000)
LITTLE = Hardware(logical_cores=2, available_memory=100_000_000)
SIZES = ("x1", "x1/2", "x1/4")
SCAN = Volume(np.ones((20, 30, 40), dtype=np.float32), (1.0, 1.0, 2.0))
START_SECONDS = 1.0
"""More than program, loading and files take by the model."""


def student(size: str = "x1/4") -> StudentPack:
    found = manifest(size=size, id=f"generated-{size.replace('/', '_')}")
    return StudentPack(manifest=found, folder=Path("nowhere"), manifest_sha256=size)


WINDOWS = estimate(student(), SCAN, runs=KnownRuns([])).windows


def family() -> Family:
    return Family(task="generated", packs=tuple(student(size) for size in SIZES))


def runs(*seconds: float) -> KnownRuns:
    """Return past runs of the sizes, from the seconds that their windows take together."""
    return KnownRuns(past_run(student(size), each / WINDOWS) for size, each in zip(SIZES, seconds, strict=True))


def advised(*seconds: float, hardware: Hardware = TWO_CORES, sizes: Family | None = None, budget: float = 10) -> Advice:
    return advise(sizes or family(), SCAN, hardware=hardware, runs=runs(*seconds), time_budget=budget)


def chosen(*seconds: float, sizes: Family | None = None, budget: float = 10) -> str:
    return advised(*seconds, sizes=sizes, budget=budget).chosen.pack.manifest.size


def test_seconds_are_windows_times_what_a_window_took_in_the_fastest_run() -> None:
    ran = KnownRuns([past_run(student(), 5.0), past_run(student(), 3.0), past_run(student("x1"), 1.0)])
    found = estimate(student(), SCAN, runs=ran)
    assert found.measured
    assert found.engine == "onnxruntime float32 on cpu"
    assert 3.0 * WINDOWS < found.seconds < 3.0 * WINDOWS + START_SECONDS
    mirrored = estimate(student(), SCAN, RunOptions(mirroring=True), runs=ran)
    assert mirrored.windows == WINDOWS * 2 ** len(student().manifest.windows.mirroring_axes)


def test_the_rest_grows_with_the_voxels_from_what_it_took() -> None:
    ran = KnownRuns([past_run(student(), 0.0, array_seconds=10.0)])
    small, large = (
        estimate(student(), Volume(np.ones(shape, np.uint8), (1.0, 1.0, 1.0)), runs=ran).seconds
        for shape in ((50, 100, 100), (100, 100, 200))
    )
    assert 1.5 < large / small < 5
    entropy = estimate(student(), SCAN, RunOptions(entropy=True), runs=ran).seconds
    assert entropy > estimate(student(), SCAN, runs=ran).seconds


def test_a_pack_that_never_ran_is_guessed_from_the_rate_of_the_others() -> None:
    network = replace(student("x1").manifest.network, flops_per_window=10**12)
    teacher = replace(student("x1"), manifest=replace(student("x1").manifest, network=network))
    small = student()
    ran = KnownRuns([past_run(small, small.manifest.network.flops_per_window / 1e11, way=way(None))])
    found = estimate(teacher, SCAN, RunOptions(engine="onnxruntime"), runs=ran)
    assert not found.measured
    assert 10 * WINDOWS < found.seconds < 10 * WINDOWS + 2


def way(threads: int | None) -> str:
    return way_to_run("onnxruntime", "float32", "cpu", threads)


def test_runs_with_another_number_of_threads_or_engine_do_not_count() -> None:
    ran = KnownRuns([past_run(student(), 100.0)])
    for options in (RunOptions(threads=1), RunOptions(engine="openvino")):
        found = estimate(student(), SCAN, options, runs=ran)
        assert (found.measured, found.seconds < 50) == (False, True)


def test_the_largest_size_that_fits_the_time() -> None:
    assert chosen(100, 5, 1) == "x1/2"
    assert chosen(100, 5, 1, budget=200) == "x1"
    assert chosen(100, 5, 1, budget=4) == "x1/4"


def scored(*dice: float | None, split: str = "held out") -> Family:
    """Return the family with these mean Dice values, the last one measured on ``split``."""
    packs = []
    for number, (each, mean) in enumerate(zip(family().packs, dice, strict=True), 1):
        interval = Interval(mean=mean or 0.0, low=0.0, high=1.0)
        evaluation = Evaluation(
            dataset="generated",
            split=split if number == len(dice) else "held out",
            cases=6,
            mirroring=False,
            mean_dice=interval,
            labels=(LabelScore(value=1, dice=interval),),
            teacher_mean_dice=None,
        )
        found = replace(each.manifest, evaluation=None if mean is None else evaluation)
        packs.append(replace(each, manifest=found))
    return Family(task="generated", packs=tuple(packs))


def test_a_smaller_size_with_a_better_score_is_taken() -> None:
    assert chosen(5, 3, 1) == "x1"
    assert chosen(5, 3, 1, sizes=scored(0.77, 0.76, 0.78)) == "x1/4"
    assert chosen(5, 3, 1, sizes=scored(0.77, 0.78, 0.76)) == "x1/2"
    assert chosen(5, 3, 1, sizes=scored(0.78, 0.77, 0.78)) == "x1/4", "the quicker one of equal ones"
    assert chosen(50, 3, 1, sizes=scored(0.79, 0.78, 0.77)) == "x1/2", "x1 is too slow"
    assert chosen(5, 3, 1, sizes=scored(0.77, None, 0.78)) == "x1", "not all are measured"
    assert chosen(5, 3, 1, sizes=scored(0.77, 0.76, 0.78, split="others")) == "x1", "on other cases"
    assert chosen(100, 50, 20, sizes=scored(0.7, 0.8, 0.6)) == "x1/4", "none is quick enough"
    assert advised(5, 3, 1, sizes=scored(0.77, 0.76, 0.78)).reason.startswith(
        "x1/4 has the best Dice of the sizes expected to finish within 10 s (0.780 on held-out cases; x1 0.770, "
        "x1/2 0.760) (estimated "
    )


def test_the_reason_is_one_sentence_with_the_estimate() -> None:
    assert re.fullmatch(
        r"x1/2 is the largest size expected to finish within 10 s "
        r"\(estimated [56]\.\d s and 0\.\d GB on 2 logical cores\)",
        advised(100, 5, 1).reason,
    )
    one = advised(1, 1, 1, hardware=replace(TWO_CORES, logical_cores=1, available_memory=None))
    assert "on 1 logical core, memory unknown)" in one.reason
    slow = advised(1000, 500, 100).reason
    assert slow.startswith("x1/4 is the smallest size; no size is expected to finish within 10 s (estimated 10")


def test_every_size_comes_with_its_estimate_the_largest_first() -> None:
    found = advised(100, 5, 1).estimates
    assert [each.pack.manifest.size for each in found] == list(SIZES)
    assert [each.seconds // 1 - (each.seconds % 1 > 1) for each in found] == [100, 5, 1]
    assert all(each.obstacle is None for each in found)


def test_a_size_that_does_not_fit_the_memory_is_passed_over_and_named() -> None:
    packs = family().packs
    wide = replace(packs[0].manifest, network=replace(packs[0].manifest.network, parameters=10**9))
    sizes = Family(task="generated", packs=(replace(packs[0], manifest=wide), *packs[1:]))
    found = advised(3, 2, 1, sizes=sizes)
    assert found.chosen.pack.manifest.size == "x1/2"
    assert re.search(r"; x1 needs about \d+\.\d GB of memory, 8\.0 GB are available$", found.reason)


def test_when_no_size_fits_the_memory_the_smallest_is_taken() -> None:
    found = advised(1, 1, 1, hardware=LITTLE)
    assert found.chosen.pack.manifest.size == "x1/4"
    assert "x1/4 is the smallest size; no size is expected to fit the available memory of 0.1 GB" in found.reason


def test_memory_that_is_all_taken_is_not_enough() -> None:
    """An estimate may be wrong by a fifth."""
    needed = advised(1, 1, 1).chosen.memory_bytes
    for share, fits in ((0.99, False), (1.01, True)):
        hardware = replace(TWO_CORES, available_memory=round(needed / MEMORY_SHARE * share))
        assert [each.obstacle is None for each in advised(1, 1, 1, hardware=hardware).estimates] == [fits] * 3


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise EngineUnavailableError("it is not installed")

    monkeypatch.setattr(candidates, "openvino_devices", missing)
    monkeypatch.setattr(candidates, "onnxruntime_devices", missing)


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_the_time_is_a_guess_and_said_to_be_one() -> None:
    found = advised(1, 1, 1)
    assert found.reason.endswith("; no engine is installed yet, so that the time is a guess")
    assert all(each.engine is None and not each.measured for each in found.estimates)
    with pytest.raises(EngineUnavailableError, match="cannot be run here with engine openvino: openvino: it is not"):
        advise(family(), SCAN, RunOptions(engine="openvino"), runs=runs(1, 1, 1))


def test_a_size_that_never_ran_is_said_to_be_guessed() -> None:
    assert advise(family(), SCAN, runs=KnownRuns([])).reason.endswith(
        "; it has not run on this computer yet, so that the time is a guess"
    )


def test_a_size_that_cannot_be_run_as_asked_for_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "INT8"})
    entry = ReducedPrecision(
        precision="int8", body="int8.onnx", mean_dice_loss=0, largest_dice_loss=0, cases=1, probe_agreement=1
    )
    packs = family().packs
    network = replace(packs[1].manifest.network, reduced_precisions=(entry,))
    accepted = replace(packs[1], manifest=replace(packs[1].manifest, network=network))
    sizes = Family(task="generated", packs=(packs[0], accepted, packs[2]))
    found = advise(sizes, SCAN, RunOptions(precision="int8"), runs=runs(3, 2, 1))
    assert found.chosen.pack.manifest.size == "x1/2"
    assert "; x1 cannot be run here with precision int8: " in found.reason
    assert [each.engine for each in found.estimates] == [None, "openvino int8 on cpu", None]
    with pytest.raises(EngineUnavailableError, match="generated x1/4 cannot be run here with precision bfloat16"):
        advise(sizes, SCAN, RunOptions(precision="bfloat16"), runs=runs(3, 2, 1))


def test_a_scan_that_is_too_large_at_the_packs_spacing() -> None:
    with pytest.raises(GeometryError):
        estimate(student(), Volume(np.ones((40, 40, 40), np.uint8), (500.0, 500.0, 500.0)))


def test_the_pack_that_is_run_before_counts_but_is_not_mirrored() -> None:
    ran = KnownRuns([past_run(student(), 2.0), past_run(student("x1"), 5.0)])
    alone = estimate(student(), SCAN, RunOptions(mirroring=True), runs=ran)
    both = estimate(student(), SCAN, RunOptions(mirroring=True), region_pack=student("x1"), runs=ran)
    assert both.windows == alone.windows + WINDOWS
    assert both.seconds == pytest.approx(alone.seconds + 5.0 * WINDOWS, abs=START_SECONDS)
    assert both.measured
    assert not estimate(student(), SCAN, region_pack=student("x1/2"), runs=ran).measured


@pytest.mark.parametrize("available", [None, 8_000_000_000])
def test_no_warning_where_memory_does(available: int | None) -> None:
    assert memory_warning(student(), SCAN, hardware=replace(TWO_CORES, available_memory=available)) is None


def test_a_warning_says_how_much_and_what_to_do() -> None:
    warning = memory_warning(student("x1"), SCAN, hardware=LITTLE)
    assert re.fullmatch(
        r"x1 needs about 0\.\d GB of memory, 0\.1 GB are available: it may fail or slow the computer down; a smaller "
        r"size, if there is one, or fewer threads take less",
        str(warning),
    )


def test_zeros_round_the_scan_are_looked_for_where_they_matter() -> None:
    voxels = np.zeros((200, 200, 200), dtype=np.float32)
    voxels[90:100, 90:100, 90:100] = 1
    mostly_air = Volume(voxels, (1.0, 1.0, 1.0))
    full = mostly_air.with_voxels(voxels + 1)
    little, much = (estimate(student(), volume).memory_bytes for volume in (mostly_air, full))
    assert little < much
    between = Hardware(logical_cores=2, available_memory=round((little + much) / 2 / MEMORY_SHARE))
    assert memory_warning(student(), mostly_air, hardware=between) is None
    assert memory_warning(student(), full, hardware=between) is not None


class TestChoosing:
    """A size that is left open, with real packs."""

    VOLUME = Volume(np.random.default_rng(0).gamma(2, 100, size=(20, 24, 18)).astype(np.float32), (1.0, 1.0, 1.0))

    @pytest.fixture
    def store(self, tmp_path: Path) -> PackStore:
        for size in ALPHAS:
            build_size(tmp_path / "shipped" / f"generated-{size.replace('/', '_')}", size)
        return PackStore(tmp_path / "user", tmp_path / "shipped")

    @pytest.fixture
    def empty(self, tmp_path: Path) -> PastRuns:
        return PastRuns(tmp_path / "cache")

    def test_the_speed_is_measured_once_and_the_reason_given(self, store: PackStore, empty: PastRuns) -> None:
        choice = choose(select(store, "generated", "auto"), self.VOLUME, runs=empty)
        assert choice.pack.manifest.size == "x1"
        assert str(choice.reason).startswith("x1 is the largest size expected to finish within 10 s (estimated ")
        (measured,) = empty.all()
        assert measured.pack_sha256 == store.get("generated-x1_4").manifest_sha256
        assert (measured.voxels, measured.window_seconds > 0) == (0, True)
        choose(select(store, "generated", "auto"), self.VOLUME, runs=empty)
        assert empty.all() == [measured]

    def test_a_fixed_size_measures_nothing_and_says_nothing(self, store: PackStore, empty: PastRuns) -> None:
        choice = choose(select(store, "generated", "x1/4"), self.VOLUME, runs=empty)
        assert (choice.pack.manifest.size, choice.reason, empty.all()) == ("x1/4", None, [])

    def test_measuring_can_be_cancelled(self, store: PackStore, empty: PastRuns) -> None:
        packs = select(store, "generated", "auto").packs
        with pytest.raises(CancelledError):
            measure_speed(packs, RunOptions(), empty, lambda: True)
        assert empty.all() == []

    def test_memory_that_other_programs_take_does_not_decide_the_size_but_is_said(
        self, store: PackStore, empty: PastRuns, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = detect_hardware()
        busy = replace(found, available_memory=50_000_000, total_memory=max(found.total_memory or 0, 8_000_000_000))
        monkeypatch.setattr(module, "detect_hardware", lambda: busy)
        choice = choose(select(store, "generated", "auto"), self.VOLUME, runs=empty)
        assert choice.pack.manifest.size == "x1"
        assert "at the moment x1 needs about" in str(choice.reason)
        fixed = choose(select(store, "generated", "x1"), self.VOLUME, runs=empty)
        assert str(fixed.reason).startswith("x1 needs about ")

    def test_what_nothing_here_can_run_is_refused(self, store: PackStore, empty: PastRuns) -> None:
        with pytest.raises(EngineUnavailableError, match=r"generated x1/4 cannot be run here with precision int8"):
            choose(select(store, "generated", "auto"), self.VOLUME, RunOptions(precision="int8"), runs=empty)

    def test_a_run_is_remembered_and_known_from_then_on(
        self, store: PackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KDSEGMENTATOR_CACHE", str(tmp_path / "mine"))
        pack = store.get("generated-x1_4")
        before = estimate(pack, self.VOLUME)
        found = Segmenter("generated", "x1/4", store=store)(self.VOLUME)
        (run,) = PastRuns().all()
        assert (run.pack_sha256, run.voxels) == (pack.manifest_sha256, self.VOLUME.voxels.size)
        assert run.windows == found.record.windows
        assert 0 < run.array_seconds <= found.record.seconds["total"]
        after = estimate(pack, self.VOLUME)
        assert (before.measured, after.measured) == (False, True)
        assert before.windows == after.windows == found.record.windows

    def test_without_room_for_what_is_remembered_a_run_is_as_good(
        self, store: PackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv("KDSEGMENTATOR_CACHE", str(tmp_path / "file"))
        assert Segmenter("generated", "x1/4", store=store)(self.VOLUME).record.size == "x1/4"

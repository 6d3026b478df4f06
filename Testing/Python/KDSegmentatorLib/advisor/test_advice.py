from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.advisor import advice as module
from KDSegmentatorLib.advisor.advice import MEMORY_FRACTION, Advice, Estimate, advise, memory_warning
from KDSegmentatorLib.advisor.calibration import Calibration
from KDSegmentatorLib.advisor.duration import window_seconds
from KDSegmentatorLib.advisor.speed import Speed, nominal_speed
from KDSegmentatorLib.advisor.workload import RunOptions, workload
from KDSegmentatorLib.engines import candidates
from KDSegmentatorLib.engines.candidates import Candidate, EngineRequest
from KDSegmentatorLib.errors import CancelledError, EngineUnavailableError, GeometryError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.machine.hardware import Hardware, detect_hardware
from KDSegmentatorLib.packs.catalogue import Family
from KDSegmentatorLib.packs.manifest import Evaluation, Interval, LabelScore, Manifest, ReducedPrecision
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore
from support.generated_packs import manifest
from support.reduced_packs import claim_openvino_abilities

TWO_CORES = Hardware(logical_cores=2, available_memory=8_000_000_000)
LITTLE = Hardware(logical_cores=2, available_memory=100_000_000)
RATE = 1e12


def scan() -> Volume:
    return Volume(np.ones((20, 30, 40), dtype=np.float32), (1.0, 1.0, 2.0))


WINDOWS = workload(scan(), manifest()).windows


def fixed(candidate: Candidate | None, threads: int | None) -> Speed:
    """Return a machine whose engine does the same whatever it is, and whose numpy takes no time."""
    return Speed(flops=((8, RATE),), arrays=1e9)


def sized(size: str, seconds: float) -> Manifest:
    """Return a manifest whose windows take so long together at :data:`RATE`."""
    base = manifest(size=size, id=f"generated-{size.replace('/', '_')}")
    head = 2 * 16**3 * base.network.features * (len(base.labels) + 1)
    return replace(base, network=replace(base.network, flops_per_window=round(seconds * RATE / WINDOWS) + head))


def pack(of: Manifest) -> StudentPack:
    return StudentPack(manifest=of, folder=Path("nowhere"), manifest_sha256="")


def family(x1: float, x1_2: float, x1_4: float) -> Family:
    """Return a family from the seconds that its sizes take."""
    sizes = {"x1": x1, "x1/2": x1_2, "x1/4": x1_4}
    return Family(task="generated", packs=tuple(pack(sized(*each)) for each in sizes.items()))


def chosen(sizes: Family, hardware: Hardware = TWO_CORES, **options: object) -> str:
    found = advise(sizes, scan(), hardware, **{"speed_of": fixed, **options})  # type: ignore[arg-type]
    return found.pack.manifest.size


def reason(sizes: Family, hardware: Hardware = TWO_CORES, **options: object) -> str:
    return advise(sizes, scan(), hardware, **{"speed_of": fixed, **options}).reason  # type: ignore[arg-type]


def test_the_largest_size_that_fits_the_time() -> None:
    sizes = family(100, 5, 1)
    assert window_seconds(sizes.packs[1].manifest, fixed(None, None)) * WINDOWS == pytest.approx(5)
    assert chosen(sizes) == "x1/2"
    assert chosen(sizes, time_budget=200) == "x1"
    assert chosen(sizes, time_budget=4) == "x1/4"
    assert chosen(sizes, mirroring=True) == "x1/4"


def scored(sizes: Family, *dice: float | None, split: str = "held out") -> Family:
    """Return the family with these mean Dice values, the last one measured on ``split``."""
    packs = []
    for number, (each, mean) in enumerate(zip(sizes.packs, dice, strict=True), 1):
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
        packs.append(pack(replace(each.manifest, evaluation=None if mean is None else evaluation)))
    return Family(task=sizes.task, packs=tuple(packs))


def test_a_smaller_size_with_a_better_score_is_taken() -> None:
    sizes = family(5, 3, 1)
    assert chosen(sizes) == "x1"
    assert chosen(scored(sizes, 0.77, 0.76, 0.78)) == "x1/4"
    assert chosen(scored(sizes, 0.77, 0.78, 0.76)) == "x1/2"
    assert chosen(scored(sizes, 0.78, 0.77, 0.78)) == "x1/4", "the quicker one of equal ones"
    assert chosen(scored(sizes, 0.79, 0.77, 0.78)) == "x1"
    assert chosen(scored(family(50, 3, 1), 0.79, 0.78, 0.77)) == "x1/2", "x1 is too slow"
    assert chosen(scored(sizes, 0.77, None, 0.78)) == "x1", "not all are measured"
    assert chosen(scored(sizes, 0.77, 0.76, 0.78, split="others")) == "x1", "on other cases"
    assert chosen(scored(family(100, 50, 20), 0.7, 0.8, 0.6)) == "x1/4", "none is quick enough"
    assert reason(scored(sizes, 0.77, 0.76, 0.78)).startswith(
        "x1/4 has the best Dice of the sizes expected to finish within 10 s (0.780 on held-out cases; x1 0.770, "
        "x1/2 0.760) (estimated 1.0 s and "
    )


def test_the_reason_is_one_sentence_with_the_estimate() -> None:
    said = reason(family(100, 5, 1))
    assert re.fullmatch(
        r"x1/2 is the largest size expected to finish within 10 s \(estimated 5\.0 s and 0\.\d GB on 2 logical cores\)",
        said,
    )
    assert "estimated 100 s" in reason(family(100, 5, 1), time_budget=200)
    assert "on 1 logical core)" in reason(family(1, 1, 1), replace(TWO_CORES, logical_cores=1))


def test_the_smallest_size_if_none_fits_the_time() -> None:
    said = reason(family(1000, 500, 100))
    assert said.startswith("x1/4 is the smallest size; no size is expected to finish within 10 s (estimated 100 s")


def test_every_size_comes_with_its_estimate_the_largest_first() -> None:
    sizes = advise(family(100, 5, 1), scan(), TWO_CORES, speed_of=fixed).sizes
    assert [size.pack.manifest.size for size in sizes] == ["x1", "x1/2", "x1/4"]
    assert [round(size.estimate.seconds) for size in sizes] == [100, 5, 1]
    assert all(size.obstacle is None and size.engine for size in sizes)
    assert {size.estimate.windows for size in sizes} == {WINDOWS}
    assert len({size.estimate.memory for size in sizes}) == 1  # they differ in operations alone


def test_a_size_that_does_not_fit_the_memory_is_passed_over_and_named() -> None:
    sizes = family(3, 2, 1)
    wide = replace(sizes.packs[0].manifest, network=replace(sizes.packs[0].manifest.network, parameters=10**9))
    with_wide = Family(task="generated", packs=(pack(wide), *sizes.packs[1:]))
    found = advise(with_wide, scan(), TWO_CORES, speed_of=fixed)
    assert found.pack.manifest.size == "x1/2"
    assert re.search(r"; x1 needs about \d+\.\d GB of memory, 8\.0 GB are available$", found.reason)
    assert found.sizes[0].obstacle is not None


def test_when_no_size_fits_the_memory_the_smallest_is_taken() -> None:
    assert chosen(family(1, 1, 1), LITTLE) == "x1/4"
    assert "x1/4 is the smallest size; no size is expected to fit the available memory of 0.1 GB" in reason(
        family(1, 1, 1), LITTLE
    )


def test_memory_that_is_all_taken_is_not_enough() -> None:
    """An estimate may be wrong by a fifth."""
    needed = advise(family(1, 1, 1), scan(), TWO_CORES, speed_of=fixed).estimate.memory
    for share, fits in ((0.99, False), (1.01, True)):
        available = round(needed / MEMORY_FRACTION * share)
        sizes = advise(family(1, 1, 1), scan(), replace(TWO_CORES, available_memory=available), speed_of=fixed).sizes
        assert [size.obstacle is None for size in sizes] == [fits] * 3


def test_unknown_memory_stops_nothing_and_is_said() -> None:
    unknown = Hardware(logical_cores=1, available_memory=None)
    assert chosen(family(1, 1, 1), unknown) == "x1"
    assert "on 1 logical core, memory unknown)" in reason(family(1, 1, 1), unknown)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise EngineUnavailableError("it is not installed")

    monkeypatch.setattr(candidates, "openvino_devices", missing)
    monkeypatch.setattr(candidates, "onnxruntime_devices", missing)


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_the_time_is_a_guess_and_said_to_be_one() -> None:
    asked: list[Candidate | None] = []

    def unmeasured(candidate: Candidate | None, threads: int | None) -> Speed:
        asked.append(candidate)
        return nominal_speed(2)

    found = advise(family(1, 1, 1), scan(), TWO_CORES, speed_of=unmeasured)
    assert asked == [None] * 3
    assert found.reason.endswith("; no engine is installed yet, so that the time is a guess")
    assert all(size.engine is None and not size.estimate.measured for size in found.sizes)


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_what_is_asked_for_is_refused() -> None:
    with pytest.raises(EngineUnavailableError, match="cannot be run here with engine openvino: openvino: it is not"):
        advise(family(1, 1, 1), scan(), TWO_CORES, request=EngineRequest(engine="openvino"), speed_of=fixed)


def test_a_machine_that_could_not_be_measured_is_said() -> None:
    said = reason(family(1, 1, 1), speed_of=lambda candidate, threads: nominal_speed(2))
    assert said.endswith("; this machine could not be measured, so that the time is a guess")


def accepted_in_int8(of: StudentPack) -> StudentPack:
    entry = ReducedPrecision(
        precision="int8", body="int8.onnx", mean_dice_loss=0, largest_dice_loss=0, cases=1, probe_agreement=1
    )
    network = replace(of.manifest.network, reduced_precisions=(entry,))
    return replace(of, manifest=replace(of.manifest, network=network))


def test_each_size_is_estimated_with_the_engine_that_would_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "INT8"})
    packs = family(40, 1, 1).packs
    sizes = Family(task="generated", packs=(accepted_in_int8(packs[0]), *packs[1:]))

    def speed_of(candidate: Candidate | None, threads: int | None) -> Speed:
        assert candidate is not None
        assert threads == 3
        return Speed(flops=((8, RATE * (8 if candidate.precision == "int8" else 1)),), arrays=1e9)

    request = EngineRequest(threads=3)
    found = advise(sizes, scan(), TWO_CORES, request=request, speed_of=speed_of)
    assert [size.engine for size in found.sizes] == ["openvino int8 on cpu", *["openvino float32 on cpu"] * 2]
    assert found.pack.manifest.size == "x1"
    assert found.estimate.seconds == pytest.approx(5, abs=0.1)


def test_a_size_that_cannot_be_run_as_asked_for_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "INT8"})
    packs = family(3, 2, 1).packs
    sizes = Family(task="generated", packs=(packs[0], accepted_in_int8(packs[1]), packs[2]))
    request = EngineRequest(precision="int8")
    found = advise(sizes, scan(), TWO_CORES, request=request, speed_of=fixed)
    assert found.pack.manifest.size == "x1/2"
    assert "; x1 cannot be run here with precision int8: " in found.reason
    assert [size.engine is None for size in found.sizes] == [True, False, True]
    slow = advise(sizes, scan(), TWO_CORES, request=request, time_budget=1.0, speed_of=fixed)
    assert slow.reason.startswith("x1/2 is the smallest size that can be taken; no size is expected to finish")
    with pytest.raises(EngineUnavailableError, match="generated x1/4 cannot be run here with precision bfloat16"):
        advise(sizes, scan(), TWO_CORES, request=EngineRequest(precision="bfloat16"), speed_of=fixed)


@pytest.mark.parametrize("budget", [0, -1, float("nan")])
def test_a_time_budget_that_makes_no_sense(budget: float) -> None:
    with pytest.raises(InvalidSettingsError, match="time budget must be more than 0 seconds"):
        chosen(family(1, 1, 1), time_budget=budget)


def test_threads_that_make_no_sense() -> None:
    with pytest.raises(InvalidSettingsError, match="threads must be a whole number from 1 to 1024, got 0"):
        chosen(family(1, 1, 1), request=EngineRequest(threads=0))


def test_a_scan_that_is_too_large_at_the_packs_spacing() -> None:
    coarse = Volume(np.ones((40, 40, 40), np.uint8), (500.0, 500.0, 500.0))
    with pytest.raises(GeometryError):
        advise(family(1, 1, 1), coarse, TWO_CORES, speed_of=fixed)


def test_the_scan_is_looked_through_once_for_sizes_on_one_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    before = module.workload

    def spy(volume: Volume, of: Manifest, *, crop: bool) -> object:
        passes.append(of.size)
        return before(volume, of, crop=crop)

    monkeypatch.setattr(module, "workload", spy)
    packs = family(3, 2, 1).packs
    other = replace(packs[2].manifest, windows=replace(packs[2].manifest.windows, patch_size=(16, 16, 24)))
    advise(Family(task="generated", packs=(*packs[:2], pack(other))), scan(), TWO_CORES, speed_of=fixed)
    assert passes == ["x1", "x1/4"]


def test_shipped_packs_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured for real, once; what is said is what the parts say."""
    monkeypatch.setenv("KDSEGMENTATOR_CACHE", str(tmp_path))
    packs = [pack for pack in PackStore(user_folder=tmp_path / "none").packs() if pack.manifest.task == "hippocampus"]
    sizes = Family(task="hippocampus", packs=tuple(sorted(packs, key=lambda each: -each.manifest.network.parameters)))
    voxels = np.random.default_rng(0).gamma(2, 100, size=(50, 60, 50)).astype(np.float32)
    volume = Volume(voxels, (1.0, 1.0, 1.0))
    found: list[Advice] = []
    for _ in range(2):
        found.append(advise(sizes, volume, detect_hardware(), speed_of=Calibration(budget=20.0).speed))
    assert found[0].sizes[0].estimate == found[1].sizes[0].estimate
    assert found[0].pack.manifest.size in {"x1", "x1/2", "x1/4"}
    for size in found[0].sizes:
        assert size.estimate.measured
        assert 0.05 < size.estimate.seconds < 600
        assert 100e6 < size.estimate.memory < 2e9


def test_cancelling_the_measuring(tmp_path: Path) -> None:
    calibration = Calibration(tmp_path, cancelled=lambda: True)
    with pytest.raises(CancelledError):
        advise(family(1, 1, 1), scan(), TWO_CORES, speed_of=calibration.speed)


@pytest.mark.parametrize("available", [None, 8_000_000_000])
def test_no_warning_where_memory_does(available: int | None) -> None:
    assert memory_warning(pack(sized("x1", 1)), scan(), replace(TWO_CORES, available_memory=available)) is None


def test_a_warning_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(module, "Calibration", forbidden)
    warning = memory_warning(pack(sized("x1", 1)), scan(), LITTLE)
    assert warning is not None
    assert re.fullmatch(
        r"x1 needs about 0\.\d GB of memory, 0\.1 GB are available: it may fail or slow the computer down; a smaller "
        r"size, if there is one, or fewer threads take less",
        warning,
    )


def test_zeros_round_the_scan_are_looked_for_where_they_matter() -> None:
    voxels = np.zeros((200, 200, 200), dtype=np.float32)
    voxels[90:100, 90:100, 90:100] = 1
    mostly_air = Volume(voxels, (1.0, 1.0, 1.0))
    student = pack(sized("x1/4", 1))
    full = mostly_air.with_voxels(voxels + 1)
    little, much = (
        advise(Family(task="generated", packs=(student,)), volume, TWO_CORES, speed_of=fixed).estimate.memory
        for volume in (mostly_air, full)
    )
    assert little < much
    between = Hardware(logical_cores=2, available_memory=round((little + much) / 2 / MEMORY_FRACTION))
    assert memory_warning(student, mostly_air, between) is None
    assert memory_warning(student, full, between) is not None


def test_wishes_count_in_the_warning() -> None:
    student, volume = pack(sized("x1/4", 1)), Volume(np.ones((256, 256, 256), np.int16), (1.0, 1.0, 1.0))
    without = next(
        available
        for available in range(100_000_000, 4_000_000_000, 20_000_000)
        if memory_warning(student, volume, replace(TWO_CORES, available_memory=available)) is None
    )
    hardware = replace(TWO_CORES, available_memory=without)
    assert memory_warning(student, volume, hardware, options=RunOptions(entropy=True, probabilities=3)) is not None


def test_an_estimate_that_was_measured_says_so_by_default() -> None:
    assert Estimate(seconds=1.0, memory=1, windows=1).measured


def test_the_speed_is_asked_for_the_way_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int | None]] = []

    def speed_of(candidate: Candidate | None, threads: int | None) -> Speed:
        assert candidate is not None
        asked.append((candidate.title, threads))
        return fixed(candidate, threads)

    request = EngineRequest(engine="onnxruntime", device="cpu", threads=2)
    advise(family(1, 1, 1), scan(), TWO_CORES, request=request, speed_of=speed_of)
    assert asked == [("onnxruntime float32 on cpu", 2)] * 3

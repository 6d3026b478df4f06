from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.advisor.duration import MOST_THREADS, Duration, network_calls, run_duration, window_seconds
from KDSegmentatorLib.advisor.engine_costs import ONNXRUNTIME, OPENVINO
from KDSegmentatorLib.advisor.speed import Speed
from KDSegmentatorLib.advisor.workload import RunOptions, Workload
from KDSegmentatorLib.packs.manifest import Manifest
from support.generated_packs import manifest

FLAT = Speed(flops=((8, 1e9),), arrays=1.0)
WORK = Workload(
    voxels=1_000_000,
    voxel_bytes=2,
    turned=False,
    cropped_shape=(100, 100, 100),
    network_shape=(50, 100, 100),
    padded_shape=(50, 100, 100),
    windows=10,
)
PLAIN = RunOptions()


def costing(flops: float, features: int = 8, labels: int = 3, patch: tuple[int, int, int] = (64, 64, 64)) -> Manifest:
    base = manifest(labels=labels)
    network = replace(base.network, flops_per_window=round(flops), features=features)
    return replace(base, network=network, windows=replace(base.windows, patch_size=patch))


def duration(
    pack: Manifest,
    work: Workload = WORK,
    options: RunOptions = PLAIN,
    speed: Speed = FLAT,
    threads: int = 1,
) -> Duration:
    return run_duration(pack, work, options, OPENVINO, "float32", speed, threads)


def test_the_total_is_the_sum() -> None:
    assert Duration(start=1, files=2, prepare=4, network=8, restore=16).total == 31


def test_every_window_is_run_once_and_mirrored_as_often_as_training_did() -> None:
    pack = costing(1e9)
    assert network_calls(pack, WORK, PLAIN) == 10
    assert network_calls(pack, WORK, RunOptions(mirroring=True)) == 80
    two_axes = replace(pack, windows=replace(pack.windows, mirroring_axes=(0, 1)))
    assert network_calls(two_axes, WORK, RunOptions(mirroring=True)) == 40


def test_one_rate_for_every_width_is_work_over_rate() -> None:
    pack = costing(50e9)
    head = 2 * 64**3 * 8 * 4
    assert window_seconds(pack, FLAT) == pytest.approx((50e9 - head) / 1e9)


def test_full_resolution_is_at_the_networks_own_width_and_the_rest_at_three_times_it() -> None:
    speed = Speed(flops=((8, 1e9), (24, 4e9)), arrays=1.0)
    pack = costing(50e9)
    full = 2 * 64**3 * (27 * (4 * 8**2 + 8) + 2 * 8**2)
    rest = 50e9 - 2 * 64**3 * 8 * 4 - full
    assert window_seconds(pack, speed) == pytest.approx(full / 1e9 + rest / 4e9)


def test_a_network_with_less_than_that_is_all_at_full_resolution() -> None:
    speed = Speed(flops=((8, 1e9), (24, 4e9)), arrays=1.0)
    head = 2 * 64**3 * 8 * 4
    assert window_seconds(costing(head + 1e6), speed) == pytest.approx(1e-3)
    assert window_seconds(costing(head - 1), speed) == 0  # a manifest that counts otherwise


def test_the_network_takes_longer_with_every_window_and_nothing_else_does() -> None:
    pack, twice = costing(20e9), replace(WORK, windows=20)
    fewer, more = duration(pack), duration(pack, twice)
    touched = fewer.network - 10 * window_seconds(pack, FLAT)  # the memory, once
    assert touched > 0
    assert more.network == pytest.approx(20 * window_seconds(pack, FLAT) + touched)
    assert (more.start, more.files, more.prepare) == (fewer.start, fewer.files, fewer.prepare)
    assert more.restore > fewer.restore  # blending


def test_more_labels_cost_little_and_wishes_more() -> None:
    few, many = duration(costing(20e9, labels=13)), duration(costing(20e9 + 2 * 64**3 * 8 * 97, labels=110))
    assert many.restore > few.restore
    assert many.network == pytest.approx(few.network)
    entropy = duration(costing(20e9, labels=13), options=RunOptions(entropy=True))
    assert entropy.restore > few.restore
    assert duration(costing(20e9, labels=13), options=RunOptions(probabilities=3)).restore == entropy.restore


def test_what_is_not_resampled_takes_no_time_for_it() -> None:
    same = replace(WORK, network_shape=WORK.cropped_shape, padded_shape=WORK.cropped_shape)
    assert duration(costing(20e9), same).prepare < duration(costing(20e9)).prepare
    assert duration(costing(20e9), same).restore < duration(costing(20e9)).restore


def test_threads_share_what_numpy_does_in_pieces_up_to_where_memory_is_the_limit() -> None:
    pack = costing(20e9)
    one, four, most, beyond = (duration(pack, threads=count) for count in (1, 4, MOST_THREADS, 8 * MOST_THREADS))
    assert four.restore == pytest.approx(one.restore / 4)
    assert most.restore == beyond.restore
    assert (one.start, one.files) == (four.start, four.files)


def test_a_machine_that_is_twice_as_fast_takes_half_the_time() -> None:
    fast = Speed(flops=((8, 2e9),), arrays=2.0)
    assert duration(costing(20e9), speed=fast).total == pytest.approx(duration(costing(20e9)).total / 2)


def test_the_engine_that_starts_slower_is_told_apart() -> None:
    pack = costing(20e9)
    found = run_duration(pack, WORK, PLAIN, ONNXRUNTIME, "float32", FLAT, 1)
    assert found.start < duration(pack).start

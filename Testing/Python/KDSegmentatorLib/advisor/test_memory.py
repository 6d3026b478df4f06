from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.advisor.engine_costs import ENGINE_COSTS, ONNXRUNTIME, OPENVINO
from KDSegmentatorLib.advisor.memory import PROCESS_BYTES, map_bytes, peak_bytes
from KDSegmentatorLib.advisor.workload import RunOptions, Workload
from KDSegmentatorLib.packs.manifest import Manifest, Normalization, Precision
from KDSegmentatorLib.packs.store import PackStore
from support.generated_packs import manifest

SHIPPED = {
    pack.manifest.size: pack
    for pack in PackStore(user_folder=Path("nowhere")).packs()
    if pack.manifest.task == "hippocampus"
}
"""The packs that come with KDSegmentator."""

LARGE = Workload(
    voxels=512 * 512 * 300,
    voxel_bytes=2,
    turned=True,
    cropped_shape=(300, 512, 512),
    network_shape=(200, 300, 300),
    padded_shape=(200, 300, 300),
    windows=100,
)


def peak(
    pack: Manifest,
    work: Workload = LARGE,
    options: RunOptions | None = None,
    *,
    engine: str = "openvino",
    precision: Precision = "float32",
    threads: int = 2,
) -> int:
    return peak_bytes(pack, work, options or RunOptions(), ENGINE_COSTS[engine], precision, threads)


def with_features(features: int, labels: int = 110, patch: tuple[int, int, int] = (128, 128, 128)) -> Manifest:
    base = manifest(labels=labels)
    return replace(
        base,
        network=replace(base.network, features=features, parameters=6_000_000),
        windows=replace(base.windows, patch_size=patch),
    )


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        (3, RunOptions(), 1),
        (255, RunOptions(), 1),
        (256, RunOptions(), 2),
        (3, RunOptions(entropy=True), 5),
        (3, RunOptions(probabilities=2), 9),
        (300, RunOptions(entropy=True, probabilities=1), 10),
    ],
)
def test_results_of_one_voxel(labels: int, options: RunOptions, expected: int) -> None:
    assert map_bytes(replace(manifest(), labels=manifest().labels[:1] * labels), options) == expected


def test_results_are_as_large_as_the_pipelines_maps() -> None:
    from KDSegmentatorLib.engines.head import background_maps

    for labels in (3, 255, 256):
        maps = background_maps((2, 3, 4), labels + 1, entropy=True, probabilities=(1, 2))
        pack = replace(manifest(), labels=manifest().labels[:1] * labels)
        options = RunOptions(entropy=True, probabilities=2)
        assert sum(map_.nbytes for map_ in maps) == 24 * map_bytes(pack, options)


def test_the_number_of_classes_costs_next_to_nothing() -> None:
    assert peak(with_features(8, labels=110)) <= 1.01 * peak(with_features(8, labels=13))


def test_wider_networks_larger_windows_and_wishes_take_more() -> None:
    base = peak(with_features(8))
    assert peak(with_features(16)) > base
    assert peak(with_features(8, patch=(128, 160, 128))) > base
    small = with_features(8, patch=(32, 32, 32))
    entropy, both = (peak(small, options=RunOptions(entropy=True, probabilities=count)) for count in (0, 1))
    assert peak(small) < entropy
    assert both - entropy == 2 * 4 * LARGE.voxels  # they are what takes the memory now, turned to the scan's axes
    assert peak(with_features(8), options=RunOptions(mirroring=True)) > base


def test_a_large_image_is_what_takes_the_memory_of_a_small_network() -> None:
    small = with_features(4, labels=2, patch=(16, 16, 16))
    twice = replace(LARGE, voxels=2 * LARGE.voxels, cropped_shape=(600, 512, 512), network_shape=(400, 300, 300))
    assert peak(small, twice) - PROCESS_BYTES > 1.8 * (peak(small) - PROCESS_BYTES - 200_000_000)
    assert peak(small, replace(LARGE, voxel_bytes=8)) > peak(small)


def test_a_mask_and_deviations_from_a_mean_take_copies() -> None:
    def of(normalization: Normalization) -> int:
        base = with_features(4, patch=(16, 16, 16))
        unresampled = replace(LARGE, network_shape=LARGE.cropped_shape, padded_shape=LARGE.cropped_shape, windows=1)
        return peak(replace(base, preprocessing=replace(base.preprocessing, normalization=normalization)), unresampled)

    masked, whole = (of(Normalization(scheme="ZScore", use_mask=mask)) for mask in (True, False))
    assert masked > whole


@pytest.mark.parametrize("engine", ENGINE_COSTS)
def test_every_engine_and_precision_has_an_estimate(engine: str) -> None:
    for pack in SHIPPED.values():
        for precision in ("float32", "bfloat16", "int8"):
            assert peak(pack.manifest, engine=engine, precision=precision) > PROCESS_BYTES


def test_int8_takes_less_with_openvino_and_later_windows_more_with_onnxruntime() -> None:
    pack = with_features(32)
    assert peak(pack, precision="int8") < peak(pack, precision="bfloat16") == peak(pack)
    one = replace(LARGE, windows=1)
    maps = ONNXRUNTIME.feature_maps["float32"] * 4 * 32 * 128**3
    more = peak(pack, engine="onnxruntime") - peak(pack, one, engine="onnxruntime")
    assert more >= (ONNXRUNTIME.more_windows - 1) * maps
    assert OPENVINO.more_windows == 1


def test_loading_counts_where_it_is_the_largest_stage() -> None:
    """A huge network and a tiny scan: what the network takes while it is loaded is most of it."""
    tiny = replace(
        LARGE,
        voxels=1000,
        turned=False,
        cropped_shape=(10, 10, 10),
        network_shape=(10, 10, 10),
        padded_shape=(16, 16, 16),
        windows=1,
    )
    base = with_features(4, labels=2, patch=(16, 16, 16))
    huge = replace(base, network=replace(base.network, parameters=1_000_000_000))
    assert peak(huge, tiny) == pytest.approx(1e9 * (OPENVINO.parameter_bytes + OPENVINO.loading_bytes), rel=0.05)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_take_memory_of_their_own(threads: int) -> None:
    pack = with_features(8)
    assert peak(pack, threads=threads + 1) > peak(pack, threads=threads)


def test_what_an_axis_of_the_image_takes_while_it_is_resampled() -> None:
    """float32 for the cropped image and two results, on top of the scan."""
    pack = with_features(4, labels=2, patch=(16, 16, 16))
    finer = replace(LARGE, network_shape=(600, 1024, 1024), padded_shape=(600, 1024, 1024))
    steps = finer.resampling_steps
    assert peak(pack, finer) >= 4 * (np.prod(LARGE.cropped_shape) + steps[-1] + steps[-2])

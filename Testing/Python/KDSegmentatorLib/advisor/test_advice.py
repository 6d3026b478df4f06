from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.advisor.advice import FLOPS_PER_CORE, Workload, advise, estimate, workload
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.windows import window_starts
from KDSegmentatorLib.machine.hardware import Hardware
from KDSegmentatorLib.packs.catalogue import Family
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.pack import StudentPack
from support.generated_packs import manifest

TWO_CORES = Hardware(logical_cores=2, available_memory=8_000_000_000)


def sized(size: str, flops: float) -> Manifest:
    base = manifest(size=size, id=f"generated-{size.replace('/', '_')}")
    return replace(base, network=replace(base.network, flops_per_window=round(flops)))


def family(x1: float, x1_2: float, x1_4: float) -> Family:
    """Return a family from its operations a window."""
    sizes = {"x1": x1, "x1/2": x1_2, "x1/4": x1_4}
    packs = [
        StudentPack(manifest=sized(size, flops), folder=Path("nowhere"), manifest_sha256="")
        for size, flops in sizes.items()
    ]
    return Family(task="generated", packs=tuple(packs))


def scan() -> Volume:
    voxels = np.ones((20, 30, 40), dtype=np.float32)
    return Volume(voxels, (1.0, 1.0, 2.0))


def windows_of(volume: Volume) -> int:
    return workload(volume, manifest()).windows


def test_workload_counts_what_the_pipeline_will_do() -> None:
    work = workload(scan(), manifest())
    assert work.image_voxels == work.restored_voxels == 24_000
    assert work.network_voxels == 48_000
    assert work.windows == len(window_starts((40, 30, 40), (16, 16, 16), 0.5))


def test_empty_surroundings_are_not_counted() -> None:
    voxels = np.zeros((100, 100, 100), dtype=np.float32)
    voxels[40:50, 40:50, 40:50] = 1
    work = workload(Volume(voxels, (1.0, 1.0, 1.0)), manifest())
    assert (work.windows, work.restored_voxels, work.network_voxels) == (1, 1000, 16**3)


@pytest.mark.parametrize("codes", ["LPS", "SAR", "IPR"])
def test_the_axis_order_does_not_matter(codes: str) -> None:
    base = manifest()
    tall = replace(base, windows=replace(base.windows, patch_size=(8, 16, 24)))
    assert workload(scan().reoriented(codes), tall) == workload(scan(), tall)


def test_time_grows_with_windows_and_mirroring_and_shrinks_with_cores() -> None:
    work = Workload(image_voxels=1000, network_voxels=1000, restored_voxels=1000, windows=10)
    heavy = sized("x1", FLOPS_PER_CORE)
    two, four = (
        estimate(heavy, work, Hardware(logical_cores=cores, available_memory=None)).seconds for cores in (2, 4)
    )
    assert two - four == pytest.approx(2.5)
    mirrored = estimate(heavy, work, TWO_CORES, mirroring=True)
    assert mirrored.windows == 80
    assert mirrored.seconds - two == pytest.approx(35)


def test_the_largest_size_that_fits_the_time() -> None:
    second = 2 * FLOPS_PER_CORE / windows_of(scan())  # of work on two cores, spread over the windows
    sizes = family(100 * second, 5 * second, 1 * second)
    assert advise(sizes, scan(), TWO_CORES).pack.manifest.size == "x1/2"
    assert advise(sizes, scan(), TWO_CORES, time_budget=200).pack.manifest.size == "x1"
    assert advise(sizes, scan(), TWO_CORES, time_budget=4).pack.manifest.size == "x1/4"
    assert advise(sizes, scan(), TWO_CORES, mirroring=True).pack.manifest.size == "x1/4"


def test_the_smallest_size_if_none_fits() -> None:
    second = 2 * FLOPS_PER_CORE / windows_of(scan())
    advice = advise(family(1000 * second, 500 * second, 100 * second), scan(), TWO_CORES)
    assert advice.pack.manifest.size == "x1/4"
    assert "no size is expected to finish within 10 s" in advice.reason


def test_too_little_memory() -> None:
    advice = advise(family(1, 1, 1), scan(), Hardware(logical_cores=2, available_memory=100_000_000))
    assert advice.pack.manifest.size == "x1/4"
    assert "memory of 0.1 GB" in advice.reason


def test_unknown_memory_is_said() -> None:
    advice = advise(family(1, 1, 1), scan(), Hardware(logical_cores=1, available_memory=None))
    assert advice.pack.manifest.size == "x1"
    assert "memory unknown" in advice.reason

"""How long and how much memory a student will take, and which one to take.

The rates below are constants on the safe side, not measurements of the machine at hand. onnxruntime 1.32 on one core
of an AMD EPYC gave 47 GFLOP per second of processor time for a network of 32 features and 26 for one of 8, and took 33
to 46 bytes a voxel and feature of a window. A machine that is busy with something else takes longer than estimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from KDSegmentatorLib.advisor.hardware import Hardware
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import NetworkGrid
from KDSegmentatorLib.packs.catalogue import Family
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.pack import StudentPack

TIME_BUDGET_SECONDS = 10.0

FLOPS_PER_CORE = 12e9
"""Floating-point operations a second of one logical core (often half a real one) in float32."""

USEFUL_CORES = 16
"""More cores than this are not counted on: convolutions of one window do not spread further."""

SECONDS_PER_VOXEL_CHANNEL = 60e-9
"""Blending, resampling and argmax, for each voxel (of the larger grid) and channel, on one core."""

STARTING_SECONDS = 1.0
"""Reading the pack and starting the engine."""

BASE_BYTES = 300_000_000
"""The interpreter, the libraries and the engine."""

WINDOW_BYTES_PER_VOXEL_FEATURE = 64
"""The engine's buffers: about 16 float32 copies of one window's features, with skip connections and work space."""

IMAGE_BYTES_PER_VOXEL = 16
"""The scan as read, reoriented and normalised, and the label map."""

MEMORY_FRACTION = 0.8
"""Share of the available memory that an estimate may take."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run is expected to take, on the safe side for a machine that does nothing else.

    Attributes:
        seconds: wall time.
        memory: peak memory in bytes.
        windows: network calls.
    """

    seconds: float
    memory: int
    windows: int


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Which student to take.

    Attributes:
        pack: the student.
        estimate: what it will take.
        reason: one sentence for the user.
    """

    pack: StudentPack
    estimate: Estimate
    reason: str


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a volume means for a network, whatever its width.

    Attributes:
        image_voxels: voxels of the volume itself.
        network_voxels: voxels at the network's spacing, after cropping, padded to a window.
        restored_voxels: voxels after cropping, at the volume's own spacing.
        windows: windows, without mirroring.
    """

    image_voxels: int
    network_voxels: int
    restored_voxels: int
    windows: int


def workload(volume: Volume, manifest: Manifest) -> Workload:
    """Return what the volume means for a pack.

    Raises:
        GeometryError: the volume would be empty or too large at the pack's spacing.
    """
    grid = NetworkGrid(volume.reoriented(manifest.preprocessing.axis_codes), manifest)
    padded = (max(pair) for pair in zip(grid.network_shape, manifest.windows.patch_size, strict=True))
    return Workload(
        image_voxels=math.prod(volume.size),
        network_voxels=math.prod(padded),
        restored_voxels=math.prod(grid.cropped_shape),
        windows=len(grid.window_starts()),
    )


def estimate(manifest: Manifest, work: Workload, hardware: Hardware, *, mirroring: bool = False) -> Estimate:
    """Return what a run will take, on the safe side.

    Args:
        manifest: of the pack.
        work: from :func:`workload`.
        hardware: what the process may use.
        mirroring: whether every window is run mirrored as well.
    """
    windows = work.windows * (2 ** len(manifest.windows.mirroring_axes) if mirroring else 1)
    channels = min(manifest.network.features, len(manifest.labels) + 1)
    cores = min(hardware.logical_cores, USEFUL_CORES)
    larger = max(work.network_voxels, work.restored_voxels)
    seconds = (
        STARTING_SECONDS
        + windows * manifest.network.flops_per_window / (FLOPS_PER_CORE * cores)
        + larger * channels * SECONDS_PER_VOXEL_CHANNEL
    )
    memory = (
        BASE_BYTES
        + math.prod(manifest.windows.patch_size) * manifest.network.features * WINDOW_BYTES_PER_VOXEL_FEATURE
        + work.network_voxels * (channels + 2) * 4
        + (work.image_voxels + work.restored_voxels) * IMAGE_BYTES_PER_VOXEL
    )
    return Estimate(seconds=seconds, memory=memory, windows=windows)


def advise(
    family: Family,
    volume: Volume,
    hardware: Hardware,
    *,
    time_budget: float = TIME_BUDGET_SECONDS,
    mirroring: bool = False,
) -> Advice:
    """Return the largest student of a family that fits the time and the memory; the smallest if none does.

    Args:
        family: packs of one task, largest first.
        volume: the scan.
        hardware: what the process may use.
        time_budget: seconds.
        mirroring: whether every window is run mirrored as well.

    Raises:
        GeometryError: the volume would be empty or too large at the packs' spacing.
    """
    most = None if hardware.available_memory is None else MEMORY_FRACTION * hardware.available_memory
    on = f"{hardware.logical_cores} logical cores"
    if most is None:
        on += ", memory unknown"
    works: list[tuple[Manifest, Workload]] = []
    for pack in family.packs:
        manifest = pack.manifest
        # sizes of a family mostly share the grid; finding it takes a pass over the volume
        work = next((known for other, known in works if _same_grid(other, manifest)), None)
        if work is None:
            work = workload(volume, manifest)
        works.append((manifest, work))
        expected = estimate(manifest, work, hardware, mirroring=mirroring)
        if expected.seconds <= time_budget and (most is None or expected.memory <= most):
            reason = (
                f"{manifest.size} is the largest size expected to finish within {time_budget:g} s "
                f"(estimated {expected.seconds:.1f} s and {expected.memory / 1e9:.1f} GB on {on})"
            )
            return Advice(pack=pack, estimate=expected, reason=reason)
    why = (
        f"no size is expected to fit the available memory of {hardware.available_memory / 1e9:.1f} GB"
        if hardware.available_memory is not None and most is not None and expected.memory > most
        else f"no size is expected to finish within {time_budget:g} s"
    )
    reason = (
        f"{manifest.size} is the smallest size; {why} "
        f"(estimated {expected.seconds:.0f} s and {expected.memory / 1e9:.1f} GB on {on})"
    )
    return Advice(pack=pack, estimate=expected, reason=reason)


def _same_grid(first: Manifest, second: Manifest) -> bool:
    a, b = first.preprocessing, second.preprocessing
    return first.windows == second.windows and (a.axis_codes, a.transpose_forward, a.spacing) == (
        b.axis_codes,
        b.transpose_forward,
        b.spacing,
    )

"""The time of a run: what its parts cost on the reference machine, at the speed of the machine at hand.

The reference is one core of an AMD EPYC (Zen 3) at numpy 2.4, scipy 1.17; the constants are processor time of small
pieces of the pipeline, measured one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from KDSegmentatorLib.advisor.engine_costs import EngineCosts
from KDSegmentatorLib.advisor.speed import Speed
from KDSegmentatorLib.advisor.workload import RunOptions, Workload, voxels_of
from KDSegmentatorLib.inference.accumulation import blended_channels
from KDSegmentatorLib.packs.manifest import Manifest, Precision

START_SECONDS = 0.6
"""The interpreter and the libraries."""

MOST_THREADS = 8
"""More threads than this do not make numpy's part of the work any faster: memory is the limit."""

_FILES = 40e-9
"""Reading a compressed scan, counting its labels and writing them, for each voxel."""

_CHECKS = 4e-9
"""Checking, turning and cropping, for each voxel."""

_NORMALIZING = {"CT": 1e-9, "ZScore": 2e-9}
_MASKED_NORMALIZING = 10e-9
_RESAMPLING = 10e-9
"""For each voxel that the resampling of one axis gives."""

_BLENDING = 4e-9
"""For each voxel of a window and channel."""

_RESTORING = 2.8e-9
"""Bringing the channels to the scan's grid, for each voxel of the larger grid and channel."""

_HEAD_VOXEL, _HEAD_ROW, _HEAD_PRODUCT = 8e-9, 1.2e-9, 0.045e-9
"""The head and the label with the largest logit: for each voxel, for each of its labels, for each feature of those."""

_CERTAINTY_ROW = 3.5e-9
"""Entropy or probabilities, for each voxel and label."""

_FIRST_TOUCH = 0.7e-9
"""Getting memory from the system, for each byte of the engine's feature maps."""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """The parts of a run in seconds of wall time, on a machine that does nothing else.

    Attributes:
        start: interpreter, libraries, network.
        files: reading the scan, writing the labels.
        prepare: until the network's input is there.
        network: inside the engine.
        restore: blending and all that comes after it.
    """

    start: float
    files: float
    prepare: float
    network: float
    restore: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.start + self.files + self.inside

    @property
    def inside(self) -> float:
        """What another pack adds that is run in the same process on the same scan."""
        return self.prepare + self.network + self.restore


def run_duration(
    manifest: Manifest,
    work: Workload,
    options: RunOptions,
    costs: EngineCosts,
    precision: Precision,
    speed: Speed,
    threads: int,
) -> Duration:
    """Return how long a run takes, from the start of the program to the labels on the disk.

    Args:
        manifest: of the pack.
        work: what the volume means for it.
        options: what is wanted.
        costs: of the engine.
        precision: number format that it computes in.
        speed: of the machine with this engine and precision.
        threads: of the run.
    """
    network = manifest.network
    calls = network_calls(manifest, work, options)
    patch = voxels_of(manifest.windows.patch_size)
    channels = blended_channels(manifest)
    alone, together = 1 / speed.arrays, 1 / (speed.arrays * min(threads, MOST_THREADS))
    touched = costs.feature_maps[precision] * 4 * network.features * patch
    return Duration(
        start=(START_SECONDS + costs.load_seconds + costs.parameter_seconds * network.parameters) * alone,
        files=_FILES * work.voxels * alone,
        prepare=_checking(manifest, work) * alone + _RESAMPLING * sum(work.resampling_steps) * together,
        network=calls * window_seconds(manifest, speed) + _FIRST_TOUCH * touched * together,
        restore=(calls * _BLENDING * patch * channels + _restoring(manifest, work, options)) * together,
    )


def network_calls(manifest: Manifest, work: Workload, options: RunOptions) -> int:
    """Return how often the network is run."""
    return work.windows * (2 ** len(manifest.windows.mirroring_axes) if options.mirroring else 1)


def window_seconds(manifest: Manifest, speed: Speed) -> float:
    """Return how long the engine takes for one window.

    Half or a third of a U-Net's work is at full resolution, with the fewest channels, where engines are slowest: four
    convolutions as wide as the network ends, counted in one (two of the encoder, two of the decoder with as many
    channels again from the skip connection), and a transposed one. The rest has two to forty times the channels; its
    mean rate is that of three times the channels. Measured against 13 networks and two engines this is within 15 %.
    """
    network = manifest.network
    voxels, features = voxels_of(manifest.windows.patch_size), network.features
    head = 2 * voxels * features * (len(manifest.labels) + 1)
    body = max(network.flops_per_window - head, 0)
    full_resolution = min(2 * voxels * (27 * (4 * features**2 + features) + 2 * features**2), body)
    return full_resolution / speed.flops_at(features) + (body - full_resolution) / speed.flops_at(3 * features)


def _checking(manifest: Manifest, work: Workload) -> float:
    normalization = manifest.preprocessing.normalization
    each = _MASKED_NORMALIZING if normalization.use_mask else _NORMALIZING[normalization.scheme]
    return _CHECKS * work.voxels + each * voxels_of(work.cropped_shape)


def _restoring(manifest: Manifest, work: Workload, options: RunOptions) -> float:
    """Return the seconds of one core from blended windows to labels, without blending."""
    rows, features, channels = len(manifest.labels) + 1, manifest.network.features, blended_channels(manifest)
    restored = voxels_of(work.cropped_shape)
    head = _HEAD_VOXEL + rows * (_HEAD_ROW + _HEAD_PRODUCT * features)
    if options.entropy or options.probabilities:
        head += rows * _CERTAINTY_ROW
    larger = max(restored, voxels_of(work.network_shape)) if work.resampled else 0
    return head * restored + _RESTORING * larger * channels

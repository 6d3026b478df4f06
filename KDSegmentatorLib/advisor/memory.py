"""The peak memory of a run: the arrays that :mod:`KDSegmentatorLib.inference` holds at the same time, added up."""

from __future__ import annotations

from KDSegmentatorLib.advisor.engine_costs import EngineCosts
from KDSegmentatorLib.advisor.workload import RunOptions, Workload, voxels_of
from KDSegmentatorLib.inference.accumulation import blended_channels
from KDSegmentatorLib.packs.manifest import Manifest, Precision

PROCESS_BYTES = 140_000_000
"""The interpreter with numpy, scipy, SimpleITK and this library."""

_FLOAT32 = 4
_PLANES_A_THREAD = 8
"""Planes of all channels that one thread of the restoration works on: what comes in, between and out."""

_BLOCK_BYTES = 8_000_000
"""One block of logits with what is computed from it."""

_PIECE_BYTES = 32_000_000
"""One piece of an image in float64 while it is resampled, and its result."""


def map_bytes(manifest: Manifest, options: RunOptions) -> int:
    """Return the bytes of the results for one voxel."""
    label = 1 if len(manifest.labels) < 256 else 2
    return label + _FLOAT32 * (options.entropy + options.probabilities)


def peak_bytes(
    manifest: Manifest,
    work: Workload,
    options: RunOptions,
    costs: EngineCosts,
    precision: Precision,
    threads: int,
) -> int:
    """Return the largest resident size of a process that segments one volume, in bytes.

    Args:
        manifest: of the pack.
        work: what the volume means for it.
        options: what is wanted.
        costs: of the engine.
        precision: number format that it computes in.
        threads: of the run.
    """
    parameters = manifest.network.parameters
    network = costs.library_bytes + costs.parameter_bytes * parameters
    read = work.voxels * work.voxel_bytes * (2 if work.turned else 1)
    results = work.voxels * map_bytes(manifest, options)
    stages = (
        work.voxels * work.voxel_bytes * 2 + costs.loading_bytes * parameters,  # ITK's copy; the network is loaded
        read + _preparing(manifest, work, threads),
        read + _segmenting(manifest, work, options, costs, precision, threads) + results,
        read + _feature_maps(manifest, work, options, costs, precision) + 2 * results,  # turned to the scan's axes
    )
    return round(PROCESS_BYTES + network + max(stages))


def kept_bytes(
    manifest: Manifest, work: Workload, options: RunOptions, costs: EngineCosts, precision: Precision
) -> int:
    """Return what a pack holds on to while another one is run after it: network, feature maps and mask, in bytes.

    The arguments are those of :func:`peak_bytes`.
    """
    network = costs.parameter_bytes * manifest.network.parameters
    return round(network + _feature_maps(manifest, work, options, costs, precision) + work.voxels)


def _preparing(manifest: Manifest, work: Workload, threads: int) -> float:
    """Return the bytes of checking, normalising and resampling the image."""
    cropped = voxels_of(work.cropped_shape)
    normalization = manifest.preprocessing.normalization
    checking = work.voxels * (work.voxel_bytes + 1)
    # ZScore makes an array of the deviations from the mean; a mask is labelled, and what is inside copied
    copies = 1 if normalization.scheme == "CT" else 5 if normalization.use_mask else 2
    normalizing = copies * _FLOAT32 * cropped
    return max(checking, normalizing, _resampling(work, threads))


def _resampling(work: Workload, threads: int) -> float:
    """Return the bytes of resampling axis by axis: the image, the result of one axis, that of the next."""
    steps = work.resampling_steps
    if not steps:
        return 0
    most = max(before + after for before, after in zip((0, *steps), steps, strict=False))
    return _FLOAT32 * (voxels_of(work.cropped_shape) + most) + threads * _PIECE_BYTES


def _segmenting(
    manifest: Manifest,
    work: Workload,
    options: RunOptions,
    costs: EngineCosts,
    precision: Precision,
    threads: int,
) -> float:
    """Return the bytes while windows are run and slabs restored."""
    patch = manifest.windows.patch_size
    channels = blended_channels(manifest)
    rows = len(manifest.labels) + 1
    image = voxels_of(work.network_shape) + (
        voxels_of(work.padded_shape) if work.padded_shape != work.network_shape else 0
    )
    plane = work.padded_shape[1] * work.padded_shape[2]
    slab = patch[0] * plane * (channels + 2) + voxels_of(patch) if work.windows > 1 else 0
    window = voxels_of(patch) * (1 + (rows if channels == rows else 0))
    if options.mirroring:
        window += 2 * voxels_of(patch) * manifest.network.features
    restored_plane = max(plane, work.cropped_shape[1] * work.cropped_shape[2]) if work.resampled else 0
    planes = threads * (_PLANES_A_THREAD * channels * restored_plane * _FLOAT32 + _BLOCK_BYTES)
    return _feature_maps(manifest, work, options, costs, precision) + _FLOAT32 * (image + slab + window) + planes


def _feature_maps(
    manifest: Manifest, work: Workload, options: RunOptions, costs: EngineCosts, precision: Precision
) -> float:
    """Return the bytes that the engine holds on to from its first window on."""
    calls = work.windows > 1 or options.mirroring
    copies = costs.feature_maps[precision] * (costs.more_windows if calls else 1)
    return copies * _FLOAT32 * manifest.network.features * voxels_of(manifest.windows.patch_size)

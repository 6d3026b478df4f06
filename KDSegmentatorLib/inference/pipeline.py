"""The main path: a volume and a pack in, a segmentation out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.errors import GeometryError, InvalidSettingsError
from KDSegmentatorLib.geometry import MAXIMUM_VOXELS, Volume
from KDSegmentatorLib.inference.accumulation import blended_windows, mirrored_axes
from KDSegmentatorLib.inference.cropping import nonzero_box
from KDSegmentatorLib.inference.normalization import normalize
from KDSegmentatorLib.inference.plausibility import check_finite, check_intensities
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback, Steps
from KDSegmentatorLib.inference.resampling import (
    axis_operators,
    resample_image,
    resampled_shape,
    separate_axis,
)
from KDSegmentatorLib.inference.restoration import label_map, slabs
from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation
from KDSegmentatorLib.inference.windows import padding, window_starts
from KDSegmentatorLib.packs.manifest import Label, Manifest
from KDSegmentatorLib.packs.pack import Head, StudentPack
from KDSegmentatorLib.version import __version__


def segment(
    volume: Volume,
    pack: StudentPack,
    engine: Engine,
    *,
    labels: Sequence[str | int] | None = None,
    mirroring: bool = False,
    check_modality: bool = True,
    progress: ProgressCallback | None = None,
    cancel: CancelCheck | None = None,
) -> Segmentation:
    """Segment a volume with a student pack, exactly as nnU-Net would with the same weights.

    The volume is brought to the axis codes that the pack was trained in, cropped to its non-zero region, normalised,
    resampled, run through the network in overlapping windows, and the labels are put back on the input's own grid.

    Args:
        volume: a scan in any of the 48 axis orders, also oblique.
        pack: the student.
        engine: runs the pack's body (:func:`KDSegmentatorLib.engines.selection.create_engine`).
        labels: names or values of the structures to keep; the others become background. None keeps all.
        mirroring: average over the windows mirrored along every axis that training mirrored: up to eight times the
            work for a little more accuracy.
        check_modality: refuse volumes that look like label maps or another modality.
        progress: called at every step.
        cancel: asked at every step, and several times a second while the engine computes. The work stops within a
            second unless a single operation takes longer (one convolution of a very large window, one pass over a
            very large volume).

    Returns:
        Labels on exactly the input's grid.

    Raises:
        UnsuitableVolumeError: the volume's intensities are not usable, or not the pack's modality.
        GeometryError: the volume would be too large at the pack's spacing.
        InvalidSettingsError: a wanted label is not in the pack, or mirroring is asked for but was not trained.
        PackError: a file of the pack is damaged.
        EngineError: the engine failed.
        CancelledError: ``cancel`` returned True.
    """
    start = time.perf_counter()
    manifest = pack.manifest
    wanted = select_labels(manifest, labels)
    if mirroring and not manifest.windows.mirroring_axes:
        raise InvalidSettingsError(f"{manifest.id} was trained without mirroring; run it without --mirroring")
    head = pack.head()

    steps = Steps("preprocess", 4, progress, cancel)
    check_finite(volume)
    if check_modality:
        check_intensities(volume, manifest.modality)
    steps.advance()
    grid = NetworkGrid(volume.reoriented(manifest.preprocessing.axis_codes), manifest)
    steps.advance()
    image = normalize(grid.cropped, manifest.preprocessing.normalization)
    steps.advance()
    image = resample_image(
        image,
        grid.network_shape,
        manifest.preprocessing.image_resampling,
        separate_axis(manifest.preprocessing.image_resampling, grid.spacing, manifest.preprocessing.spacing),
        steps.check,
    )
    steps.advance()
    preprocessed = time.perf_counter()

    mirrorings = mirrored_axes(manifest.windows.mirroring_axes if mirroring else ())
    starts = grid.window_starts()
    early = _head_comes_early(head, manifest)
    steps = Steps("windows", len(starts) * len(mirrorings), progress, cancel)
    blended = blended_windows(
        image,
        engine,
        patch_size=manifest.windows.patch_size,
        starts=starts,
        mirrorings=mirrorings,
        features=manifest.network.features,
        early_head=head if early else None,
        steps=steps,
    )
    del image
    inferred = time.perf_counter()

    steps = Steps("restore", len(slabs(grid.cropped_shape, max(len(blended), len(head.bias)))), progress, cancel)
    found = label_map(blended, grid.cropped_shape, grid.restoring_operators(), None if early else head, steps)
    del blended
    restored = grid.restored(_only(found, wanted, manifest))
    result = volume.with_voxels(restored.reoriented(volume.axis_codes).voxels)
    end = time.perf_counter()
    return Segmentation(
        volume=result,
        labels=wanted,
        record=RunRecord(
            pack_id=manifest.id,
            pack_version=manifest.version,
            pack_sha256=pack.manifest_sha256,
            task=manifest.task,
            size=manifest.size,
            engine=engine.name,
            precision=engine.precision,
            mirroring=mirroring,
            windows=len(starts) * len(mirrorings),
            seconds={
                "preprocess": preprocessed - start,
                "windows": inferred - preprocessed,
                "restore": end - inferred,
                "total": end - start,
            },
            library_version=__version__,
        ),
    )


class NetworkGrid:
    """The grids between a reoriented volume and the network, and the way back.

    Args:
        oriented: the volume in the pack's axis codes.
        manifest: of the pack.

    Raises:
        GeometryError: the volume would have no voxel, or more than the limit, at the network's spacing.
    """

    def __init__(self, oriented: Volume, manifest: Manifest) -> None:
        preprocessing = manifest.preprocessing
        forward = preprocessing.transpose_forward
        self._oriented = oriented
        self._forward = forward
        self._manifest = manifest
        transposed = oriented.voxels.transpose(forward)
        self._box = nonzero_box(transposed)
        self.cropped = transposed[self._box]
        """(z, y, x) transposed and cropped, in the volume's own numbers."""
        spacing = oriented.spacing[::-1]  # array order
        self.spacing = tuple(spacing[axis] for axis in forward)
        """Spacing of ``cropped`` in mm, array order."""
        z, y, x = self.cropped.shape
        self.cropped_shape = (z, y, x)
        self.network_shape = resampled_shape(self.cropped_shape, self.spacing, preprocessing.spacing)
        """Shape of the network's input before padding."""
        voxels = math.prod(self.network_shape)
        if voxels == 0 or voxels > MAXIMUM_VOXELS:
            raise GeometryError(
                f"at the pack's spacing of {preprocessing.spacing} mm the volume would have {voxels:,} voxels "
                f"(shape {self.network_shape}; limit {MAXIMUM_VOXELS:,}). Check the volume's spacing, or crop it to "
                f"the {manifest.body_part}"
            )

    def window_starts(self) -> list[tuple[int, int, int]]:
        """Return where the windows lie on the padded network grid."""
        windows = self._manifest.windows
        pads = padding(self.network_shape, windows.patch_size)
        padded = [length + low + high for length, (low, high) in zip(self.network_shape, pads, strict=True)]
        return window_starts(padded, windows.patch_size, windows.step_fraction)

    def restoring_operators(
        self,
    ) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
        """Return the operators from the network's grid to the cropped grid."""
        resampling = self._manifest.preprocessing.logits_resampling
        apart = separate_axis(resampling, self._manifest.preprocessing.spacing, self.spacing)
        return axis_operators(self.network_shape, self.cropped_shape, resampling, apart)

    def restored(self, labels: npt.NDArray[np.uint8 | np.uint16]) -> Volume:
        """Return cropped labels on the reoriented volume's grid, background outside the crop."""
        shape = [self._oriented.voxels.shape[axis] for axis in self._forward]
        whole = np.zeros(shape, dtype=labels.dtype)
        whole[self._box] = labels
        return self._oriented.with_voxels(whole.transpose(np.argsort(self._forward)))


def select_labels(manifest: Manifest, wanted: Sequence[str | int] | None) -> tuple[Label, ...]:
    """Return the labels with the wanted names (upper or lower case) or values, in the pack's order.

    Raises:
        InvalidSettingsError: a name or value is not in the pack.
    """
    if wanted is None:
        return manifest.labels
    if isinstance(wanted, str):
        wanted = [wanted]  # or its letters would be taken for names
    by_key: dict[str | int, Label] = {}
    for label in manifest.labels:
        by_key[label.value] = label
        by_key[label.name.casefold()] = label
    chosen = set()
    for key in wanted:
        found = by_key.get(key.casefold() if isinstance(key, str) else key)
        if found is None:
            known = ", ".join(f"{label.name} ({label.value})" for label in manifest.labels)
            raise InvalidSettingsError(f"{manifest.id} has no label {key!r}; it has: {known}")
        chosen.add(found.value)
    if not chosen:
        raise InvalidSettingsError("no label was chosen; name at least one, or leave the choice out to keep all")
    return tuple(label for label in manifest.labels if label.value in chosen)


def _head_comes_early(head: Head, manifest: Manifest) -> bool:
    """Return whether to apply the head to every window instead of once at the end.

    Both give the same logits as long as restoring is linear; the smaller array is blended. Splines above order 1 are
    clipped, which is not linear, so that the logits themselves have to be resampled.
    """
    resampling = manifest.preprocessing.logits_resampling
    return len(head.bias) <= manifest.network.features or max(resampling.order, resampling.order_z) > 1


def _only(
    labels: npt.NDArray[np.uint16], wanted: tuple[Label, ...], manifest: Manifest
) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return the labels with everything that is not wanted set to background, in the smallest type."""
    largest = max(label.value for label in manifest.labels)
    table = np.zeros(largest + 1, dtype=np.uint8 if largest < 256 else np.uint16)
    for label in wanted:
        table[label.value] = label.value
    return table[labels]

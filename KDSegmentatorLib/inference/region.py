"""The region that an earlier pack found in a volume, and the volume with nothing but that region."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, ImplausibleVolumeError, InvalidSettingsError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import MM3_PER_ML, Box, Vector, Volume, nonzero_box, slabs
from KDSegmentatorLib.inference.sanity import ml_text
from KDSegmentatorLib.inference.segmentation import RegionRecord, ResultWarning, RunRecord
from KDSegmentatorLib.packs.manifest import Manifest

REGION_TIMES_SMALLEST = 0.25
"""A region may have this fraction of what the later pack's structures have together in the smallest training case.

Half a brain is about half of it, and is segmented with warnings; pieces of another organ that were taken for brain
are not.
"""

_ROUNDING = 1e-6
"""Of a margin: 3 voxels of 0.7 mm are 2.1 mm, also in floating point."""


LITTLE_ELSE = 1.3
"""Voxels that are not 0, over those of the region, up to which a scan shows little but the region. A mask that is a
little too small would cut structures off, and there is nothing else to keep away from the later pack. Measured with
brain extraction: 1.05 to 1.13 on skull-stripped scans (four of OASIS, ch2, MNI152); 1.8 to 9.2 on heads (ch2 whole, its
upper part and its half, the average of pydeface, thick slices)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundRegion:
    """What an earlier pack found in a volume (:func:`KDSegmentatorLib.segmenter.find_region`).

    Attributes:
        volume: bool on the grid of the volume that it was found in: the voxels of any of that pack's structures.
        title: that pack's title.
        structures: the names of its structures.
        record: how the mask came about.
        alone: whether the scan shows little but the region (:func:`shows_little_else`); the later pack then takes it
            as it is.
        reused: whether it was found before, for another pack.
    """

    volume: Volume
    title: str
    structures: tuple[str, ...]
    record: RunRecord
    alone: bool = False
    reused: bool = False

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(z, y, x), the voxels of :attr:`volume`."""
        voxels: npt.NDArray[np.bool_] = self.volume.voxels
        return voxels


def check_region(found: FoundRegion, manifest: Manifest, volume: Volume) -> None:
    """Check that a region is the one that a pack needs, and that there is something in it.

    Args:
        found: the region.
        manifest: of the later pack.
        volume: in which it was found.

    Raises:
        InvalidSettingsError: it was found by another pack than the one that the manifest names.
        GeometryError: it is not on the volume's grid, as that of another volume or of the same one reoriented.
        UnsuitableVolumeError: it is empty; the message names both packs.
    """
    wanted = None if manifest.region is None else manifest.region.pack
    if found.record.pack_id != wanted:
        raise InvalidSettingsError(
            f"{manifest.id} takes {f'the region of {wanted}' if wanted else 'no region'}, got that of "
            f"{found.record.pack_id}"
        )
    if not found.volume.same_grid(volume):
        raise GeometryError(
            f"the region that {found.record.pack_id} found lies on another grid than the volume: "
            f"{_grid_text(found.volume)}, not {_grid_text(volume)}; find it in the same volume"
        )
    if not found.mask.any():
        raise UnsuitableVolumeError(
            f"{found.title} ({found.record.pack_id} {found.record.pack_version}) found nothing in this volume "
            f"({', '.join(found.structures)}), and {manifest.title} ({manifest.id} {manifest.version}) segments only "
            "what lies in what it finds. Check that the volume shows it, that its orientation is right, and that it is "
            f"a scan such as this task is for ({manifest.modality}, {manifest.body_part.lower()})"
        )


def check_region_size(found: FoundRegion, manifest: Manifest, volume: Volume) -> None:
    """Check that a region is not far too small for the structures that are looked for in it.

    Args:
        found: the region.
        manifest: of the later pack; without ``expected`` every size will do.
        volume: in which it was found.

    Raises:
        ImplausibleVolumeError: it is smaller than :data:`REGION_TIMES_SMALLEST` of what training cases have; the
            message names both packs and how to overrule.
    """
    expected = manifest.expected
    found_ml = int(np.count_nonzero(found.mask)) * volume.voxel_volume / MM3_PER_ML
    if expected is None or found_ml >= REGION_TIMES_SMALLEST * expected.smallest_ml:
        return
    raise ImplausibleVolumeError(
        f"{found.title} ({found.record.pack_id} {found.record.pack_version}) found {ml_text(found_ml)} ml in this "
        f"volume ({', '.join(found.structures)}); the structures of {manifest.title} ({manifest.id} "
        f"{manifest.version}) have {ml_text(expected.smallest_ml)} ml together in the smallest training case. Check "
        "that the volume shows all of it, that its orientation is right, and that it is a scan such as this task is "
        f"for ({manifest.modality}, {manifest.body_part.lower()})."
    )


def region_record(found: FoundRegion, margin_mm: float) -> RegionRecord:
    """Return what the later pack's record says about the region."""
    record = found.record
    return RegionRecord(
        pack_id=record.pack_id,
        pack_version=record.pack_version,
        pack_sha256=record.pack_sha256,
        margin_mm=margin_mm,
        engine=record.engine,
        device=record.device,
        precision=record.precision,
        windows=record.windows,
        calls=record.calls,
        voxels=int(np.count_nonzero(found.mask)),
        alone=found.alone,
        reused=found.reused,
    )


def with_region_warnings(found: FoundRegion, warnings: tuple[ResultWarning, ...]) -> tuple[ResultWarning, ...]:
    """Return what the user of a chain has to know: the earlier pack's warnings, with its title, and the later pack's.

    What is wrong with the scan itself is said once: spikes and noise as the earlier pack sees them, which sees all of
    the scan, and thick slices as the later one does, which names the structures.

    Args:
        found: the region.
        warnings: of the later pack.
    """
    later = {warning.kind for warning in warnings}
    earlier = [warning for warning in found.record.warnings if {warning.kind} & later != {"thick slices"}]
    said = {warning.kind for warning in earlier} & {"spikes", "noise"}
    titled = [
        warning if warning.kind in said else replace(warning, sentence=f"{found.title}: {warning.sentence}")
        for warning in earlier
    ]
    return (*titled, *(warning for warning in warnings if warning.kind not in said))


def shows_little_else(volume: Volume, mask: npt.NDArray[np.bool_]) -> bool:
    """Return whether a scan shows little but the region, as a skull-stripped brain does.

    Args:
        volume: the scan.
        mask: (z, y, x) on its grid, the region that was found in it.
    """
    return int(np.count_nonzero(volume.voxels)) <= LITTLE_ELSE * int(np.count_nonzero(mask))


def visible_part(
    volume: Volume, found: FoundRegion | None, manifest: Manifest, check: Callable[[], None] = lambda: None
) -> Volume:
    """Return the volume, or what the later pack may see of it: the region with the pack's margin.

    Args:
        volume: the scan.
        found: the region; None for all of the volume, as if the scan shows little else.
        manifest: of the later pack.
        check: called again and again; may raise to stop.
    """
    if found is None or manifest.region is None or found.alone:
        return volume
    return only_region(volume, found.mask, manifest.region.margin_mm, check)


def only_region(
    volume: Volume, mask: npt.NDArray[np.bool_], margin_mm: float, check: Callable[[], None] = lambda: None
) -> Volume:
    """Return the volume with 0 wherever it is farther than a margin from a mask.

    Args:
        volume: the scan.
        mask: (z, y, x) on its grid, not empty.
        margin_mm: distance between the centres of voxels, in mm, >= 0; 0 keeps the mask alone.
        check: called again and again; may raise to stop.
    """
    voxels = np.zeros_like(volume.voxels)
    box = _widened(nonzero_box(mask), mask.shape, volume.spacing, margin_mm)
    kept = within(mask[box], volume.spacing, margin_mm, check)
    source, target = volume.voxels[box], voxels[box]
    for part in slabs(source):
        check()
        np.copyto(target[part], source[part], where=kept[part])
    return volume.with_voxels(voxels)


def within(
    mask: npt.NDArray[np.bool_], spacing: Vector, margin_mm: float, check: Callable[[], None] = lambda: None
) -> npt.NDArray[np.bool_]:
    """Return the voxels that are no farther than a margin from the nearest voxel of a mask.

    Distances in a plane are scipy's exact Euclidean ones; a plane k planes away has what is left of the margin,
    margin^2 - (k dz)^2 in squares.

    Args:
        mask: (z, y, x).
        spacing: along x, y, z in mm.
        margin_mm: >= 0.
        check: called for every plane; may raise to stop.
    """
    if margin_mm == 0:
        return mask
    from scipy.ndimage import distance_transform_edt

    dx, dy, dz = spacing
    planes, most = len(mask), margin_mm * (1 + _ROUNDING)
    reach = int(most / dz)
    left = [max(most**2 - (step * dz) ** 2, 0.0) for step in range(reach + 1)]
    kept: npt.NDArray[np.bool_] = mask.copy()
    for plane in range(planes):
        check()
        if not mask[plane].any():
            continue
        squares = np.square(distance_transform_edt(~mask[plane], sampling=(dy, dx)))
        for other in range(max(0, plane - reach), min(planes, plane + reach + 1)):
            kept[other] |= squares <= left[abs(other - plane)]
    return kept


def _grid_text(volume: Volume) -> str:
    numbers = (", ".join(f"{number:.5g}" for number in each) for each in (volume.size, volume.spacing, volume.origin))
    size, spacing, origin = numbers
    return f"{volume.axis_codes} of ({size}) voxels of ({spacing}) mm from ({origin}) mm on"


def _widened(box: Box, shape: tuple[int, ...], spacing: Vector, margin_mm: float) -> Box:
    """Return a box with the margin round it, as far as the grid goes."""
    z, y, x = (
        slice(max(0, part.start - more), min(length, part.stop + more))
        for part, more, length in zip(
            box, [math.ceil(margin_mm / step) for step in reversed(spacing)], shape, strict=True
        )
    )
    return z, y, x

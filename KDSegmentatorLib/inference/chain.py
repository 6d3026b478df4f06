"""The earlier stage of two chained packs: one pack finds the region that another one segments."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.progress import REGION_PREFIX, CancelCheck, Progress, ProgressCallback
from KDSegmentatorLib.inference.region import FoundRegion, shows_little_else
from KDSegmentatorLib.packs.pack import StudentPack


def find_region(
    volume: Volume,
    pack: StudentPack,
    engine: Engine,
    *,
    check_input: bool = True,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelCheck | None = None,
) -> FoundRegion:
    """Return what an earlier pack finds in a volume, for :func:`KDSegmentatorLib.inference.pipeline.segment`.

    Args:
        volume: the scan.
        pack: the earlier pack (:func:`KDSegmentatorLib.packs.regions.region_pack`).
        engine: runs its body.
        check_input: see :func:`KDSegmentatorLib.inference.pipeline.segment`, as for all that follows.
        threads: CPU threads outside of the engine.
        progress: called at every step, with stages that start with ``region-``.
        cancel: asked at every step.

    Raises:
        KDSegmentatorError: see :func:`KDSegmentatorLib.inference.pipeline.segment`.
    """

    def earlier(step: Progress) -> None:
        if progress is not None:
            progress(replace(step, stage=REGION_PREFIX + step.stage))

    found = segment(volume, pack, engine, check_input=check_input, threads=threads, progress=earlier, cancel=cancel)
    mask = found.volume.voxels != 0
    return FoundRegion(
        volume=found.volume.with_voxels(mask),
        title=pack.manifest.title,
        structures=tuple(label.name for label in pack.manifest.labels),
        record=found.record,
        alone=shows_little_else(volume, mask),
    )


class Regions:
    """What earlier packs found in the last volume, so that several sizes run on it find it once.

    A volume is known by its object: do not change its voxels in between.
    """

    def __init__(self) -> None:
        self._volume: Volume | None = None
        self._found: dict[Hashable, FoundRegion] = {}

    def get(self, volume: Volume, key: Hashable, find: Callable[[], FoundRegion]) -> FoundRegion:
        """Return a region that is known, or find it.

        Args:
            volume: the scan.
            key: what else decides what is found: pack, engine, settings.
            find: finds it.
        """
        if self._volume is not volume:
            self._volume = volume
            self._found = {}
        known = self._found.get(key)
        if known is not None:
            return replace(known, reused=True)
        found = self._found[key] = find()
        return found

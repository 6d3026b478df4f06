"""The worker's part of advice: what every size of some tasks takes for a volume of which only the outline is known."""

from __future__ import annotations

import numpy as np

from KDSegmentatorLib.advice import advise, measure_speed
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.geometry import Volume, matrix, nonzero_box
from KDSegmentatorLib.inference.progress import CancelCheck
from KDSegmentatorLib.jobs.messages import Advised, AdviseRequest, Outline, SizeAdvice, TaskAdvice
from KDSegmentatorLib.packs.catalogue import Family, families
from KDSegmentatorLib.packs.regions import region_packs
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.past_runs import PastRuns


def run_advise(request: AdviseRequest, cancel: CancelCheck = lambda: False, *, runs: PastRuns | None = None) -> Advised:
    """Return what is asked; a task that nothing can be said of says why.

    Where nothing has run on this computer yet, the smallest network of a task is run once, to know its speed.

    Args:
        request: what is asked.
        cancel: asked while the speed is measured.
        runs: on this computer; None takes those in the user's cache.

    Raises:
        CancelledError: ``cancel`` returned True.
    """
    runs = runs or PastRuns()
    store = PackStore(request.user_packs, request.shipped_packs)
    volume = _volume_of(request.outline)
    wanted = [family for family in families(store.packs()) if family.task in request.tasks]
    return Advised(tasks={family.task: _advice(request, family, volume, store, cancel, runs) for family in wanted})


def outline_of(volume: Volume) -> Outline:
    """Return the outline of a volume."""
    k, j, i = volume.voxels.shape
    return Outline(
        shape=(k, j, i),
        dtype=volume.voxels.dtype.name,
        spacing=volume.spacing,
        direction=tuple(float(cosine) for row in volume.direction for cosine in row),
        box=tuple((side.start, side.stop - 1) for side in nonzero_box(volume.voxels)),
    )


def _volume_of(outline: Outline) -> Volume:
    """Return a volume with this outline: zero but for two corners of the box, next to no memory."""
    voxels = np.zeros(outline.shape, dtype=outline.dtype)
    for corner in zip(*outline.box, strict=True):
        voxels[corner] = 1
    return Volume(voxels, outline.spacing, direction=matrix(outline.direction))


def _advice(
    request: AdviseRequest, family: Family, volume: Volume, store: PackStore, cancel: CancelCheck, runs: PastRuns
) -> TaskAdvice:
    try:
        earlier = {} if request.options.region else region_packs(family.packs, store.find)
        measure_speed(family, request.options, runs, cancel)
        found = advise(family, volume, request.options, region_packs=earlier, runs=runs)
    except KDSegmentatorError as error:
        if cancel():
            raise
        return TaskAdvice(problem=str(error))
    sizes = {
        each.pack.manifest.size: SizeAdvice(
            seconds=each.seconds,
            loading_seconds=each.loading_seconds,
            memory_bytes=each.memory_bytes,
            measured=each.measured,
            obstacle=each.obstacle or "",
        )
        for each in found.estimates
    }
    return TaskAdvice(sizes=sizes, advised=found.chosen.pack.manifest.size, reason=found.reason)

"""From blended network output to labels on the scan's own grid, a few planes at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.head import VoxelMaps, read_off
from KDSegmentatorLib.engines.memory_failure import memory_failure
from KDSegmentatorLib.inference.accumulation import blended_channels, blended_slabs, head_comes_early
from KDSegmentatorLib.inference.network_grid import NetworkGrid
from KDSegmentatorLib.inference.progress import Begin, RowSteps, Steps
from KDSegmentatorLib.inference.resampling import AxisOperators
from KDSegmentatorLib.inference.windows import mirrored_axes, windows_reaching
from KDSegmentatorLib.packs.pack import Head, StudentPack

Array = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)

_PLANES_A_THREAD = 2


def blend_and_restore(
    image: Array,
    grid: NetworkGrid,
    pack: StudentPack,
    engine: Engine,
    *,
    mirroring: bool,
    entropy: bool,
    probabilities: Sequence[int],
    threads: int,
    begin: Begin,
    later: int,
) -> tuple[VoxelMaps, Steps]:
    """Run the network over all windows, blend, resample, apply the head and read the labels off, in a rolling slab.

    Args:
        image: (z, y, x) as the network takes it.
        grid: the grids between the volume and the network.
        pack: the student.
        engine: runs its body.
        mirroring: average over mirrored windows.
        entropy: whether the entropy is wanted.
        probabilities: values of the labels whose probability is wanted.
        threads: CPU threads outside of the engine.
        begin: begins the stages ``windows`` and ``restore``.
        later: steps of the last stage that the caller takes.

    Returns:
        Maps of the whole transposed grid, and the last stage.

    Raises:
        CancelledError: the work was cancelled.
        EngineError: the engine failed, or gave numbers that are not finite.
        InsufficientMemoryError: not even one plane fits into memory.
    """
    manifest, head = pack.manifest, pack.head()
    early = head_comes_early(manifest)
    starts, patch = grid.window_starts(), manifest.windows.patch_size
    mirrorings = mirrored_axes(manifest.windows.mirroring_axes if mirroring else ())
    maps, cropped = grid.maps(len(head.bias), entropy=entropy, probabilities=probabilities)
    parts = grid.strips(blended_channels(manifest)) if len(starts) > 1 else [None]
    if len(parts) > 1:
        _log.info("memory is short: the plane is worked on in %d strips", len(parts))
    strips = [grid.strip(part, cropped) for part in parts]
    calls = sum(len(windows_reaching(starts, image.shape, patch, columns)) for _, _, columns in strips)
    steps = begin("windows", calls * len(mirrorings))
    rows = RowSteps(steps, len(cropped.labels) * len(strips), later, begin)
    for into, operators, columns in strips:
        with Restoration(into, operators, None if early else head, threads=threads, restored=rows.restored) as restored:
            for slab in blended_slabs(
                image,
                engine,
                patch_size=patch,
                starts=starts,
                mirrorings=mirrorings,
                features=manifest.network.features,
                early_head=head if early else None,
                steps=steps,
                threads=threads,
                strip=columns,
            ):
                restored.push(slab)
            del slab  # makes room for the next strip's
    return maps, rows.stage()


class Restoration:
    """Takes the network's output slab by slab, brings it to the grid before resampling, and reads the labels off.

    Memory beyond the maps stays at a few planes, whatever the number of labels and the size of the volume. When even
    that does not fit, it goes on with one plane at a time.

    Args:
        maps: of the shape before resampling, filled here; views into other arrays are fine.
        operators: from the network's grid to that shape, order 0 or 1 if the head comes late (anything else is not
            linear because of clipping).
        late_head: turns features into logits; None if the slabs hold logits.
        threads: planes computed at a time.
        restored: called with the number of rows of the maps that were just finished; may raise to stop.
    """

    def __init__(
        self,
        maps: VoxelMaps,
        operators: AxisOperators,
        late_head: Head | None,
        *,
        threads: int,
        restored: Callable[[int], None],
    ) -> None:
        self._maps = maps
        self._along_z, self._along_y, self._along_x = operators
        self._head = late_head
        self._restored = restored
        self._threads = threads
        self._executor = ThreadPoolExecutor(max_workers=threads)
        self._planes: list[Array] = []  # resampled within the plane; the first is that of network row _first
        self._first = 0
        self._next = 0

    def __enter__(self) -> Restoration:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def push(self, slab: Array) -> None:
        """Take the next rows of the network's output, and finish the rows of the maps that they complete.

        Args:
            slab: (features or logits, rows, y, x) at the network's spacing; not needed any more afterwards.

        Raises:
            InsufficientMemoryError: not even one plane fits into memory.
        """
        start = 0
        while start < slab.shape[1]:
            count = min(slab.shape[1] - start, _PLANES_A_THREAD * self._threads)
            try:
                planes = self._map(lambda row: self._in_plane(slab[:, row]), range(start, start + count))
            except MemoryError:
                self._make_do()
                continue
            self._planes += planes
            start += count
            self._finish_rows()
        if self._along_y is None and self._along_x is None:  # what is new of the kept planes are parts of the slab
            new = max(0, len(self._planes) - slab.shape[1])
            try:
                self._planes[new:] = [plane.copy() for plane in self._planes[new:]]
            except MemoryError:
                raise memory_failure("to keep a plane of the network's output") from None

    def _finish_rows(self) -> None:
        """Finish every row of the maps whose planes are there, and forget the planes that no later row needs."""
        available = self._first + len(self._planes)
        last = self._next
        while last < len(self._maps.labels) and self._inputs(last).stop <= available:
            last += 1
        while self._next < last:
            rows = range(self._next, min(last, self._next + _PLANES_A_THREAD * self._threads))
            try:
                self._map(self._finish_row, rows)
            except MemoryError:
                self._make_do()
                continue
            self._next = rows.stop
            self._restored(len(rows))
        needed = min(self._first_needed(last), available) if last < len(self._maps.labels) else available
        del self._planes[: needed - self._first]
        self._first = needed

    def _finish_row(self, row: int) -> None:
        inputs = self._inputs(row)
        planes = self._planes[inputs.start - self._first : inputs.stop - self._first]
        plane = planes[0]
        if self._along_z is not None:
            weights = self._along_z.weights(row)
            plane = planes[0] * weights[0]
            for other, weight in zip(planes[1:], weights[1:], strict=True):
                plane += other * weight
        maps = VoxelMaps(
            labels=self._maps.labels[row],
            entropy=None if self._maps.entropy is None else self._maps.entropy[row],
            probabilities={value: map_[row] for value, map_ in self._maps.probabilities.items()},
        )
        read_off(self._head, plane, maps)

    def _in_plane(self, plane: Array) -> Array:
        """Return a plane (channels, y, x) resampled along y and x."""
        if self._along_x is not None:
            plane = self._along_x.apply_to_plane(np.ascontiguousarray(plane), 2)
        if self._along_y is not None:
            plane = self._along_y.apply_to_plane(plane, 1)
        return plane

    def _inputs(self, row: int) -> slice:
        return slice(row, row + 1) if self._along_z is None else self._along_z.inputs(row)

    def _first_needed(self, row: int) -> int:
        return row if self._along_z is None else self._along_z.first_needed(row)

    def _map(self, work: Callable[[int], Array | None], rows: range) -> list[Array]:
        """Return what ``work`` gives for rows; when it fails for one, the others are done or have failed as well."""
        results: list[Array | None] = []
        if self._threads == 1:
            results += map(work, rows)
        else:
            futures: list[Future[Array | None]] = []
            try:
                futures += (self._executor.submit(work, row) for row in rows)
                wait(futures)  # what is tried again has the memory for itself
                while futures:  # one by one: a future that failed holds on to the arrays of its thread
                    results.append(futures.pop(0).result())
            finally:
                wait(futures)
                futures.clear()
        return [result for result in results if result is not None]

    def _make_do(self) -> None:
        """Go on with one plane at a time after memory ran out.

        Raises:
            InsufficientMemoryError: that is how it went already.
        """
        if self._threads == 1:
            raise memory_failure("to restore one plane of the result") from None
        self._threads = 1

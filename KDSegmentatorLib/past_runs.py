"""What runs took on this computer: one small JSON file in the user's cache, which only estimates read."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.io.files import replacing
from KDSegmentatorLib.io.lock import locked
from KDSegmentatorLib.machine.hardware import detect_hardware, processor_name
from KDSegmentatorLib.packs.locations import default_cache_folder
from KDSegmentatorLib.packs.pack import StudentPack

KEPT_RUNS = 5
"""Of a pack in one way; the oldest go."""

MOST_RUNS = 500
"""In the file."""

_LOCK_SECONDS = 0.5
_WAITED = 1.5
"""From this multiple of its processor time on, spread over the cores, an engine waited for other programs."""

_Whole = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]

_log = logging.getLogger(__name__)


class PastRun(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of one pack took, as if nothing else had run on the computer.

    Attributes:
        pack_sha256: hash of the pack's manifest.
        way: computer, engine, precision, device, threads (:func:`way_to_run`).
        flops: floating-point operations of a window.
        window_seconds: in the engine, for one window.
        loading_seconds: to load and check the engine.
        compiled: whether the engine took a compiled network from the cache.
        voxels: of the volume; 0 if only the engine was timed.
        windows: that were blended, mirrored ones counted apart; 0 likewise.
        array_seconds: of all of the run but the engine.
    """

    pack_sha256: str
    way: str
    flops: _Whole
    window_seconds: _Seconds
    loading_seconds: _Seconds
    compiled: bool
    voxels: _Whole = 0
    windows: _Whole = 0
    array_seconds: _Seconds = 0.0


class PastRuns:
    """The runs that are remembered. What cannot be read counts as nothing, what cannot be written is not remembered.

    Args:
        folder: the user's cache; None takes the default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = (folder or default_cache_folder()) / "runs.json"

    def add(self, run: PastRun) -> None:
        """Remember a run; several processes may do so at a time."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._path.with_suffix(".lock"), _LOCK_SECONDS), replacing(self._path) as temporary:
                temporary.write_bytes(msgspec.json.encode(_recent([*self.all(), run])))
        except (OSError, KDSegmentatorError) as error:
            _log.info("the times of this run are not remembered: %s", error)

    def all(self) -> list[PastRun]:
        """Return all runs, the latest last."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[PastRun])
        except (OSError, msgspec.DecodeError, RecursionError):
            return []


class WatchedEngine:
    """An engine that adds up how long it would have computed on an idle computer.

    Args:
        engine: does the work.
        threads: of the run; None if that was left to the engine.
    """

    def __init__(self, engine: Engine, threads: int | None) -> None:
        hardware = detect_hardware()
        self._engine = engine
        self._threads = threads
        self._cores = threads or hardware.physical_cores or hardware.logical_cores
        self.name, self.device, self.precision = engine.name, engine.device, engine.precision
        self.calls = 0
        self._wall = self._computed = 0.0

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        """See :class:`KDSegmentatorLib.engines.engine.Engine`."""
        wall, computed = time.perf_counter(), time.process_time()
        try:
            return self._engine.run(windows, cancelled)
        finally:
            self.calls += len(windows)
            self._wall += time.perf_counter() - wall
            self._computed += time.process_time() - computed

    @property
    def slowdown(self) -> float:
        """How many times as long it took because other programs used the processor; 1 if none did."""
        if self.device != "cpu" or not self._computed:
            return 1.0
        waited = self._wall * self._cores / self._computed
        return waited if waited > _WAITED else 1.0

    def past_run(
        self,
        pack: StudentPack,
        loading_seconds: float,
        *,
        compiled: bool,
        voxels: int = 0,
        windows: int = 0,
        array_seconds: float = 0.0,
    ) -> PastRun:
        """Return what to remember of a run; see :class:`PastRun`.

        Args:
            pack: that was run.
            loading_seconds: as measured, like ``array_seconds``.
            compiled: whether the engine took a compiled network from the cache.
            voxels: of the volume.
            windows: that were blended.
            array_seconds: of all of the run but the engine.
        """
        return PastRun(
            pack_sha256=pack.manifest_sha256,
            way=way_to_run(self.name, self.precision, self.device, self._threads),
            flops=pack.manifest.network.flops_per_window,
            window_seconds=self._wall / self.slowdown / max(self.calls, 1),
            loading_seconds=loading_seconds,
            compiled=compiled,
            voxels=voxels,
            windows=windows,
            array_seconds=array_seconds / self.slowdown,
        )


def way_to_run(engine: str, precision: str, device: str, threads: int | None) -> str:
    """Return what the times of a run depend on besides pack and volume."""
    cores = detect_hardware().logical_cores
    return f"{engine} {precision} on {device} of {processor_name()}, {threads or 'all'} of {cores} threads"


def _recent(runs: list[PastRun]) -> list[PastRun]:
    """Return the latest :data:`KEPT_RUNS` of each pack and way, in their order."""
    later: dict[tuple[str, str], int] = defaultdict(int)
    kept = []
    for run in reversed(runs):
        later[run.pack_sha256, run.way] += 1
        if later[run.pack_sha256, run.way] <= KEPT_RUNS:
            kept.append(run)
    return kept[:MOST_RUNS][::-1]

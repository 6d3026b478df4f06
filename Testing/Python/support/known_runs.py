"""Past runs of packs that never ran, so that estimates follow from numbers that a test knows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.past_runs import PastRun, PastRuns, way_to_run

ENGINE = "onnxruntime"


def past_run(pack: StudentPack, window_seconds: float, *, way: str = "", array_seconds: float = 0.0) -> PastRun:
    """Return a run of a pack with onnxruntime on a scan of a million voxels."""
    return PastRun(
        pack_sha256=pack.manifest_sha256,
        way=way or way_to_run(ENGINE, "float32", "cpu", None),
        flops=pack.manifest.network.flops_per_window,
        window_seconds=window_seconds,
        loading_seconds=0.0,
        compiled=False,
        voxels=1_000_000,
        windows=1,
        array_seconds=array_seconds,
    )


class KnownRuns(PastRuns):
    """Runs that nothing adds to."""

    def __init__(self, runs: Iterable[PastRun]) -> None:
        super().__init__(Path("nowhere"))
        self._known = list(runs)

    def all(self) -> list[PastRun]:
        """Return them."""
        return self._known

    def add(self, run: PastRun) -> None:
        """Forget it."""

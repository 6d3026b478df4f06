from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from KDSegmentatorLib.packs.manifest import Precision
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.past_runs import KEPT_RUNS, PastRun, PastRuns, WatchedEngine, way_to_run
from support.generated_packs import manifest

RUN = PastRun(
    pack_sha256="a", way="w", flops=10, window_seconds=1.0, loading_seconds=2.0, compiled=True, voxels=3, windows=4
)


def test_runs_come_back_the_latest_last_and_of_each_pack_and_way_only_a_few(tmp_path: Path) -> None:
    runs = PastRuns(tmp_path / "made when needed")
    others = [msgspec.structs.replace(RUN, way="another"), msgspec.structs.replace(RUN, pack_sha256="b")]
    for run in [*others, *(msgspec.structs.replace(RUN, window_seconds=number) for number in range(KEPT_RUNS + 2))]:
        runs.add(run)
    found = runs.all()
    assert found[:2] == others
    assert [run.window_seconds for run in found[2:]] == list(range(2, KEPT_RUNS + 2))
    assert sorted(path.name for path in (tmp_path / "made when needed").iterdir()) == ["runs.json", "runs.lock"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"way": "w"}]', "[" * 100_000, "\xff"])
def test_a_damaged_file_counts_as_nothing_and_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "runs.json").write_text(content, encoding="latin-1")
    runs = PastRuns(tmp_path)
    assert runs.all() == []
    runs.add(RUN)
    assert runs.all() == [RUN]


def test_numbers_that_no_run_can_take_count_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs.json").write_bytes(msgspec.json.encode([msgspec.structs.replace(RUN, window_seconds=-1.0)]))
    assert PastRuns(tmp_path).all() == []


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    runs = PastRuns(tmp_path / "file")
    runs.add(RUN)
    assert runs.all() == []


def add_some(folder: Path, way: str) -> None:
    for _ in range(KEPT_RUNS):
        PastRuns(folder).add(msgspec.structs.replace(RUN, way=way))


def test_processes_that_end_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=add_some, args=(tmp_path, way)) for way in ("one", "other")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    ways = [run.way for run in PastRuns(tmp_path).all()]
    assert sorted(ways) == ["one"] * KEPT_RUNS + ["other"] * KEPT_RUNS


class Waiting:
    """An engine that waits, as one does whose cores other programs use, or computes."""

    name, device = "onnxruntime", "cpu"
    precision: Precision = "float32"

    def __init__(self, *, computes: bool) -> None:
        self._computes = computes

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        if not self._computes:
            time.sleep(0.4)
        return windows


PACK = StudentPack(manifest=manifest(), folder=Path("nowhere"), manifest_sha256="a")
WINDOWS = np.zeros((2, 1, 4, 4, 4), np.float32)


def test_what_other_programs_took_is_left_out() -> None:
    engine = WatchedEngine(Waiting(computes=False), threads=1)
    engine.run(WINDOWS, lambda: False)
    run = engine.past_run(PACK, 1.0, compiled=True, voxels=5, windows=2, array_seconds=8.0)
    assert engine.slowdown > 4
    assert run.window_seconds == pytest.approx(0.025, rel=0.3)
    assert run.array_seconds == pytest.approx(8.0 / engine.slowdown)
    assert run.way == way_to_run("onnxruntime", "float32", "cpu", 1)
    assert (run.pack_sha256, run.voxels, run.windows, run.compiled) == ("a", 5, 2, True)


def test_a_graphics_card_leaves_the_processor_idle_without_being_slowed_down() -> None:
    engine = Waiting(computes=False)
    engine.device = "cuda"
    watched = WatchedEngine(engine, threads=1)
    watched.run(WINDOWS, lambda: False)
    assert watched.slowdown == 1

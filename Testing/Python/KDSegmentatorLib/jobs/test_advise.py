"""Advice: what sizes take for a volume of which only the outline is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace as changed

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.advice import advise
from KDSegmentatorLib.geometry import Volume, matrix
from KDSegmentatorLib.jobs.advise import outline_of, run_advise
from KDSegmentatorLib.jobs.messages import Advised, AdviseRequest, SegmentRequest, Started, TaskAdvice
from KDSegmentatorLib.jobs.process import start_advice, start_segmentation
from KDSegmentatorLib.jobs.worker_process import Workers
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.store import PackStore
from support.chained_packs import EARLIER, after_earlier, install_earlier, install_later
from support.generated_family import build_size
from support.known_runs import KnownRuns, past_run

COSINE, SINE = 0.8, 0.6
DIRECTION = matrix([[COSINE, -SINE, 0], [SINE, COSINE, 0], [0, 0, 1]])


def scan(dtype: str = "float32") -> Volume:
    """Return an oblique scan with zeros round it."""
    voxels = np.zeros((40, 50, 60), dtype)
    voxels[5:30, 10:45, 20:50] = np.random.default_rng(0).gamma(2, 100, (25, 35, 30)).astype(dtype) + 1
    return Volume(voxels, (1.1, 0.9, 1.7), (10.0, -20.0, 30.0), DIRECTION)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PackStore:
    folder = tmp_path_factory.mktemp("shipped packs é")
    for size in ("x1", "x1/4"):
        build_size(folder / f"generated-{size.replace('/', '_')}", size)
    return PackStore(folder / "none", folder)


@pytest.fixture
def question(store: PackStore) -> AdviseRequest:
    return asked_of(store, "generated")


@pytest.fixture
def runs(store: PackStore) -> KnownRuns:
    return KnownRuns(past_run(pack, 0.01) for pack in store.packs())


def asked_of(store: PackStore, task: str) -> AdviseRequest:
    return AdviseRequest(
        task=task,
        tasks=(task,),
        outline=outline_of(scan()),
        user_packs=str(store.user_folder),
        shipped_packs=str(store.shipped_folder),
    )


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_the_outline_is_enough(store: PackStore, question: AdviseRequest, runs: KnownRuns, dtype: str) -> None:
    expected = advise(families(store.packs())[0], scan(dtype), runs=runs)
    found = run_advise(changed(question, outline=outline_of(scan(dtype))), runs=runs).tasks["generated"]
    assert [(size, each.seconds, each.memory_bytes) for size, each in found.sizes.items()] == [
        (each.pack.manifest.size, each.seconds, each.memory_bytes) for each in expected.estimates
    ]
    assert (found.advised, found.reason) == (expected.chosen.pack.manifest.size, expected.reason)


def test_a_volume_of_zeros_has_an_outline() -> None:
    volume = Volume(np.zeros((2, 3, 4)), (1.0, 1.0, 1.0))
    assert outline_of(volume).box == ((0, 1), (0, 2), (0, 3))


def test_a_problem_comes_back_as_such(question: AdviseRequest, runs: KnownRuns) -> None:
    found = run_advise(changed(question, options=RunOptions(precision="int8")), runs=runs)
    assert "precision int8" in found.tasks["generated"].problem


def test_the_worker_that_answers_waits_for_the_segmentation(question: AdviseRequest, tmp_path: Path) -> None:
    """So that the first run needs no process of its own, and the engines are loaded in it and nowhere else."""
    workers = Workers(temporary_folder=tmp_path, keep_seconds=60)
    try:
        asked = start_advice(question, workers=workers)
        found = asked.wait(120)
        assert isinstance(found, Advised), found
        assert list(found.tasks["generated"].sizes) == ["x1", "x1/4"]
        assert workers.warm
        request = SegmentRequest(
            task="generated", user_packs=question.user_packs, shipped_packs=question.shipped_packs, sizes=("x1/4",)
        )
        job = start_segmentation(request, scan(), workers=workers)
        assert job.wait(120) is not None
        processes = {event.pid for each in (asked, job) for event in each.poll() if isinstance(event, Started)}
        assert len(processes) == 1, "one process did both"
    finally:
        workers.end()


def test_the_pack_that_is_run_before_counts_and_has_to_be_there(tmp_path: Path) -> None:
    store = PackStore(tmp_path / "user", tmp_path / "none shipped")
    asked = asked_of(store, "inside")

    def advice() -> TaskAdvice:
        return run_advise(asked, runs=KnownRuns(past_run(pack, 0.01) for pack in store.packs())).tasks["inside"]

    install_later(store, tmp_path, region=None)
    alone = advice().sizes["x1/4"]
    install_later(store, tmp_path, region=after_earlier())
    assert advice().problem.startswith(f"inside-x1_4 needs {EARLIER}")
    install_earlier(store, tmp_path)
    both = advice().sizes["x1/4"]
    assert both.seconds > alone.seconds
    assert alone.memory_bytes <= both.memory_bytes < 2 * alone.memory_bytes

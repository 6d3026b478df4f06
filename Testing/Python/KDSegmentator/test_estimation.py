from __future__ import annotations

import json
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.advice import advise
from KDSegmentatorLib.errors import LockedError
from KDSegmentatorLib.geometry import Volume, matrix
from KDSegmentatorLib.io.lock import locked
from KDSegmentatorLib.machine.hardware import detect_hardware
from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel import estimation
from KDSegmentatorPanel.estimation import EstimateProcess, Question, estimate_here
from KDSegmentatorPanel.outline import Outline
from support.chained_packs import EARLIER, after_earlier, install_earlier, install_later
from support.generated_family import build_size
from support.job_processes import HANG, LONG_SECONDS, launching_program, released
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
def question(store: PackStore) -> Question:
    return Question(
        outline=Outline.of(scan()),
        tasks=("generated",),
        user_packs=str(store.user_folder),
        shipped_packs=str(store.shipped_folder),
        engine="auto",
        precision="auto",
        threads=None,
        mirroring=False,
        entropy=False,
    )


@pytest.fixture
def runs(store: PackStore) -> KnownRuns:
    return KnownRuns(past_run(pack, 0.01) for pack in store.packs())


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_the_outline_is_enough_for_the_estimates(store: PackStore, runs: KnownRuns, dtype: str) -> None:
    volume = scan(dtype)
    family, hardware = families(store.packs())[0], detect_hardware()
    outline = Outline.of(volume)
    expected = advise(family, volume, hardware=hardware, runs=runs)
    found = advise(family, outline.volume(), hardware=hardware, runs=runs)
    assert found == expected
    assert Outline.from_json(json.loads(json.dumps(outline.as_json()))) == outline


def test_a_volume_of_zeros_has_an_outline() -> None:
    volume = Volume(np.zeros((2, 3, 4)), (1.0, 1.0, 1.0))
    assert Outline.of(volume).box == ((0, 1), (0, 2), (0, 3))


def test_another_process_gives_the_same_without_loading_an_engine_here(question: Question) -> None:
    found = EstimateProcess()(question)
    here = estimate_here(question)
    assert found.keys() == here.keys() == {"generated"}
    assert list(found["generated"].sizes) == ["x1", "x1/4"]
    assert [size.memory for size in found["generated"].sizes.values()] == [
        size.memory for size in here["generated"].sizes.values()
    ]
    assert found["generated"].advised in found["generated"].sizes
    assert found["generated"].reason.startswith(found["generated"].advised)


def test_a_problem_comes_back_as_such(question: Question, runs: KnownRuns) -> None:
    found = estimate_here(replace(question, precision="int8"), runs)
    assert "precision int8" in found["generated"].problem


def test_no_answer_is_no_error(question: Question, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert EstimateProcess(str(tmp_path / "missing"), tmp_path)(question) == {}
    assert "no estimates" in caplog.text
    assert list(tmp_path.iterdir()) == []


def saying(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the process run other code."""
    monkeypatch.setattr(estimation, "_COMMAND", ("-c", code))


@pytest.mark.parametrize("answer", [None, "", "[1]", '{"generated": {}}'])
def test_a_strange_answer_is_none(
    question: Question, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: str | None
) -> None:
    written = "" if answer is None else f"open('answer.json', 'w').write({answer!r});"
    saying(monkeypatch, written + "print('what the process said')")
    assert EstimateProcess()(question) == {}
    assert "no estimates" in caplog.text
    assert "what the process said" in caplog.text


def test_what_libraries_print_does_not_matter(
    question: Question, runs: KnownRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({task: asdict(each) for task, each in estimate_here(question, runs).items()})
    saying(
        monkeypatch, f"import os; print('hi'); open('answer.json', 'w').write({answer!r}); os.write(1, b'\\xff{{}}')"
    )
    assert EstimateProcess()(question) == estimate_here(question, runs)


class TestEnding:
    """A process that takes too long, that nobody wants any more, or whose application is gone."""

    @pytest.fixture
    def locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
        """Let the first process hang with a process of its own, each of which holds a lock; the next one answers."""
        locks = tmp_path / "child.lock", tmp_path / "process.lock"
        hang = textwrap.indent(HANG.format(child=str(locks[0]), worker=str(locks[1])), "    ")
        code = f"""
from pathlib import Path
if Path({str(locks[1])!r}).exists():
    Path("answer.json").write_text('{{}}')
else:
{hang}
"""
        saying(monkeypatch, code)
        return locks

    @pytest.fixture
    def executable(self, tmp_path: Path) -> str:
        """Return Python as Slicer has it, behind a program that starts it."""
        return sys.executable if sys.platform == "win32" else str(launching_program(tmp_path))

    def test_it_takes_too_long(
        self, question: Question, locks: tuple[Path, Path], executable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(estimation, "LONGEST_SECONDS", 5.0)
        assert EstimateProcess(executable)(question) == {}
        assert all(released(lock) for lock in locks)

    def test_it_is_stopped_and_the_next_question_is_answered(
        self,
        question: Question,
        locks: tuple[Path, Path],
        executable: str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        folder = tmp_path / "temporary"
        folder.mkdir()
        estimate = EstimateProcess(executable, folder)
        estimate.stop()  # nothing is at work
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(estimate, question)
            wait_until_held(locks[1])
            estimate.stop()
            assert answer.result(LONG_SECONDS) == {}
        assert all(released(lock) for lock in locks)
        assert estimate(question) == {}
        assert caplog.text == "", "it was no failure"
        assert list(folder.iterdir()) == []

    def test_the_application_is_gone(self, question: Question, tmp_path: Path) -> None:
        (tmp_path / "question.json").write_text(json.dumps(asdict(question)), encoding="utf-8")
        child = EstimateProcess()._launch(tmp_path)
        try:
            child.release()
            assert "".join(child.lines()) == ""
            estimation._await_end(child)
            assert child.exit_code() == 1
            assert not (tmp_path / "answer.json").exists()
        finally:
            child.end(None)


def wait_until_held(path: Path) -> None:
    for _ in range(int(LONG_SECONDS * 20)):
        if path.exists():
            try:
                with locked(path, 0):
                    pass
            except LockedError:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody holds {path}")


def test_the_pack_that_is_run_before_counts_and_has_to_be_there(question: Question, tmp_path: Path) -> None:
    store = PackStore(tmp_path / "user", tmp_path / "none shipped")
    asked = replace(question, tasks=("inside",), user_packs=str(store.user_folder), shipped_packs=str(tmp_path))
    install_later(store, tmp_path, region=None)
    alone = estimate_here(asked)["inside"].sizes["x1/4"]
    install_later(store, tmp_path, region=after_earlier())
    assert estimate_here(asked)["inside"].problem.startswith(f"inside-x1_4 needs {EARLIER}")
    install_earlier(store, tmp_path)
    both = estimate_here(asked)["inside"].sizes["x1/4"]
    assert both.seconds > alone.seconds
    assert alone.memory <= both.memory < 2 * alone.memory

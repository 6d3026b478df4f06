from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.advisor.advice import advise
from KDSegmentatorLib.advisor.speed import Speed, nominal_speed
from KDSegmentatorLib.geometry import Volume, matrix
from KDSegmentatorLib.machine.hardware import detect_hardware
from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel import estimation
from KDSegmentatorPanel.estimation import Question, estimate_apart, estimate_here
from KDSegmentatorPanel.outline import Outline
from support.generated_family import build_size

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


def fixed_speed(*_: object) -> Speed:
    return replace(nominal_speed(4), measured=True)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_the_outline_is_enough_for_the_estimates(store: PackStore, dtype: str) -> None:
    volume = scan(dtype)
    family = families(store.packs())[0]
    outline = Outline.of(volume)
    expected = advise(family, volume, detect_hardware(), speed_of=fixed_speed)
    found = advise(family, outline.volume(), detect_hardware(), speed_of=fixed_speed)
    assert [size.estimate for size in found.sizes] == [size.estimate for size in expected.sizes]
    assert Outline.from_json(json.loads(json.dumps(outline.as_json()))) == outline


def test_a_volume_of_zeros_has_an_outline() -> None:
    volume = Volume(np.zeros((2, 3, 4)), (1.0, 1.0, 1.0))
    assert Outline.of(volume).box == ((0, 1), (0, 2), (0, 3))


def test_another_process_gives_the_same_without_loading_an_engine_here(question: Question) -> None:
    found = estimate_apart(question)
    here = estimate_here(question, fixed_speed)
    assert found.keys() == here.keys() == {"generated"}
    assert list(found["generated"].sizes) == ["x1", "x1/4"]
    assert [size.memory for size in found["generated"].sizes.values()] == [
        size.memory for size in here["generated"].sizes.values()
    ]
    assert found["generated"].advised in found["generated"].sizes
    assert found["generated"].reason.startswith(found["generated"].advised)


def test_a_problem_comes_back_as_such(question: Question) -> None:
    found = estimate_here(replace(question, precision="int8"), fixed_speed)
    assert "precision int8" in found["generated"].problem


def test_no_answer_is_no_error(
    question: Question, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(estimation.sys, "executable", str(tmp_path / "missing"))
    assert estimate_apart(question) == {}
    assert "no estimates" in caplog.text


@pytest.mark.parametrize("output", ["", "warning\n", "[1]\n", '{"generated": {}}\n'])
def test_a_strange_answer_is_none(
    question: Question, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, output: str
) -> None:
    class Done:
        stdout = output

    monkeypatch.setattr(estimation.subprocess, "run", lambda *_args, **_options: Done())
    assert estimate_apart(question) == {}
    assert "no estimates" in caplog.text


def test_what_libraries_print_does_not_matter(question: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = estimate_here(question, fixed_speed)

    class Done:
        stdout = "hello\n" + json.dumps({task: asdict(each) for task, each in answer.items()}) + "\n"

    monkeypatch.setattr(estimation.subprocess, "run", lambda *_args, **_options: Done())
    assert estimate_apart(question) == answer

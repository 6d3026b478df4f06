from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib import advice
from KDSegmentatorLib import segmenter as module
from KDSegmentatorLib.engines.selection import ChosenEngine, choose_engine
from KDSegmentatorLib.errors import (
    CancelledError,
    EngineUnavailableError,
    InvalidSettingsError,
    ManifestError,
    PackError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.machine.hardware import Hardware, processor_name
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter
from support.chained_packs import EARLIER, after_earlier, install_earlier, install_later
from support.generated_family import ALPHAS, build_size

SMALL = Volume(np.random.default_rng(0).gamma(2, 100, size=(20, 24, 18)).astype(np.float32), (1.0, 1.0, 1.0))
LARGE = Volume(np.random.default_rng(1).gamma(2, 100, size=(40, 48, 36)).astype(np.float32), (1.0, 1.0, 1.0))


@pytest.fixture
def store(tmp_path: Path) -> PackStore:
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    for size in ALPHAS:
        store.install(build_size(tmp_path / size.replace("/", "_"), size).folder)
    return store


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the packs that engines are made for, as they are made."""
    packs: list[str] = []

    def spy(pack: StudentPack, request: RunOptions, **named: Any) -> ChosenEngine:
        packs.append(pack.manifest.id)
        return choose_engine(pack, request, **named)

    monkeypatch.setattr(module, "choose_engine", spy)
    return packs


def test_a_fixed_size_is_loaded_at_once(store: PackStore, made: list[str]) -> None:
    segmenter = Segmenter("generated", "x1/2", store=store)
    assert segmenter.pack.manifest.id == "generated-x1_2"
    assert len(made) == 1
    result = segmenter(SMALL)
    expected = segment(SMALL, segmenter.pack, segmenter.engine.engine)
    np.testing.assert_array_equal(result.volume.voxels, expected.volume.voxels)
    assert segmenter.choose(SMALL).reason is None
    assert len(made) == 1


def test_without_a_size_the_recommended_one_runs_whatever_the_machine(
    store: PackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Segmenter("generated", store=store).pack.manifest.size == "x1/4"
    monkeypatch.setattr(advice, "detect_hardware", lambda: Hardware(logical_cores=1, available_memory=1))
    assert Segmenter("Generated", store=store)(SMALL).record.size == "x1/4"


def test_auto_decides_at_the_first_volume_and_keeps_the_pack_and_its_engine(
    store: PackStore, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter("generated", "auto", store=store)
    assert made == []
    with pytest.raises(InvalidSettingsError, match=r"choose\(volume\)"):
        _ = segmenter.pack
    with pytest.raises(InvalidSettingsError, match="name a size"):
        _ = segmenter.engine
    assert segmenter(SMALL).record.size == "x1"
    assert segmenter(SMALL).record.size == "x1"
    assert len(made) == 1
    monkeypatch.setattr(advice, "detect_hardware", lambda: Hardware(logical_cores=1, available_memory=1))
    assert segmenter(LARGE).record.size == "x1"
    assert segmenter.pack.manifest.size == "x1"
    assert str(segmenter.choose(LARGE).reason).startswith("x1 is the largest size")
    assert len(made) == 1


def test_what_is_asked_for_reaches_the_engine_and_the_pipeline(store: PackStore) -> None:
    options = RunOptions(
        size="x1/2", engine="onnxruntime", precision="float32", device="cpu", threads=1, entropy=True, check_input=False
    )
    segmenter = Segmenter("generated", options, store=store, probabilities=["structure 2"], labels=[1])
    assert segmenter.engine.reason == "onnxruntime float32 on cpu: exact"
    found = segmenter(SMALL)
    assert (found.record.engine, found.record.threads, found.record.checked) == ("onnxruntime", 1, False)
    assert found.entropy is not None
    assert list(found.probabilities) == [2]
    assert [label.value for label in found.labels] == [1]


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        ({"engine": "abacus"}, InvalidSettingsError, "there is no engine 'abacus'"),
        ({"threads": 0}, InvalidSettingsError, "threads must be a whole number from 1 to 1024"),
        ({"labels": 19}, InvalidSettingsError, "labels must be a list of names"),
        ({"labels": ["Spleen"]}, InvalidSettingsError, "generated-x1_2 has no label 'Spleen'"),
        ({"probabilities": ["structure 9"]}, InvalidSettingsError, "do you mean structure"),
        ({"mirroring": "yes"}, InvalidSettingsError, "mirroring must be True or False"),
        ({"precision": "int8"}, EngineUnavailableError, "the pack was not accepted in int8"),
    ],
)
def test_what_is_not_possible_is_an_error_at_once(
    store: PackStore, request_: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Segmenter("generated", "x1/2", store=store, **request_)


def test_auto_leaves_damaged_packs_out_and_says_so(store: PackStore, caplog: pytest.LogCaptureFixture) -> None:
    (store.get("generated-x1").folder / "manifest.json").write_text("{}", encoding="utf-8")
    segmenter = Segmenter("generated", "auto", store=store)
    assert [pack.id for pack in segmenter.damaged] == ["generated-x1"]
    assert segmenter(SMALL).record.size == "x1/2"
    assert "generated-x1 is left out" in caplog.text
    assert str(segmenter.choose(SMALL).reason).endswith("; left out as unusable: generated-x1")
    with pytest.raises(ManifestError):
        Segmenter("generated", "x1", store=store)
    assert Segmenter("generated", "x1/2", store=store).damaged == ()


@pytest.mark.parametrize(("task", "size"), [("spleen", "auto"), ("spleen", "x1"), ("generated", "x1/8")])
def test_no_such_pack(store: PackStore, task: str, size: str) -> None:
    with pytest.raises(PackError, match="there is no"):
        Segmenter(task, size, store=store)


def test_all_packs_of_a_task_damaged(store: PackStore) -> None:
    for pack in store.packs():
        (pack.folder / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ManifestError):
        Segmenter("generated", store=store)


def test_the_record_has_engine_version_processor_and_the_time_of_the_start(store: PackStore) -> None:
    segmenter = Segmenter("generated", "x1/4", store=store, engine="onnxruntime")
    first, second = segmenter(SMALL).record, segmenter(SMALL).record
    assert first.engine_version == version("onnxruntime")
    assert first.processor == processor_name()
    assert first.seconds["start"] > second.seconds["start"] >= 0
    assert first.with_seconds(reading=0.5).seconds == first.seconds | {"reading": 0.5}


# ---- mistakes ----


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("t1.nii.gz", r"not the name of a file: segmenter\(read_volume\('t1.nii.gz'\)\)"),
        (Path("t1.nii.gz"), "not the name of a file"),
        (np.zeros((3, 4, 5)), r"not a numpy.ndarray of shape \(3, 4, 5\): give voxels .* Volume\(voxels, spacing"),
        (None, "not None"),
    ],
)
def test_what_is_no_volume_is_refused_with_what_to_give(store: PackStore, given: Any, said: str) -> None:
    with pytest.raises(InvalidSettingsError, match=said):
        Segmenter("generated", "x1/4", store=store)(given)


# ---- threads and processes ----


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_several_threads_may_share_a_segmenter(store: PackStore, engine: str) -> None:
    pytest.importorskip(engine)
    segmenter = Segmenter("generated", "x1/4", store=store, engine=engine, threads=1)
    volumes = [SMALL.with_voxels(np.roll(SMALL.voxels, number)) for number in range(4)]
    expected = [segmenter(volume).volume.voxels for volume in volumes]
    with ThreadPoolExecutor(max_workers=4) as executor:
        found = list(executor.map(segmenter, volumes * 2))
    for result, voxels in zip(found, expected * 2, strict=True):
        np.testing.assert_array_equal(result.volume.voxels, voxels)


_IN_A_FORKED_CHILD = """
import os, sys
import numpy as np
from pathlib import Path
from KDSegmentatorLib.errors import EngineError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter

volume = Volume(np.random.default_rng(0).gamma(2, 100, size=(20, 24, 18)).astype(np.float32), (1.0, 1.0, 1.0))
store = PackStore(Path(sys.argv[1]), Path(sys.argv[2]))
segmenter = Segmenter("generated", "x1/4", store=store, engine=sys.argv[3], threads=1)
expected = segmenter(volume).volume.voxels
child = os.fork()
if child == 0:
    try:
        same = (segmenter(volume).volume.voxels == expected).all()
        os._exit(0 if same else 3)
    except EngineError as error:
        os._exit(4 if "spawn" in str(error) else 5)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("engine", "code"), [("onnxruntime", 0), ("openvino", 4)])
def test_a_forked_process_gets_an_engine_of_its_own_or_is_told(store: PackStore, engine: str, code: int) -> None:
    pytest.importorskip(engine)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        _IN_A_FORKED_CHILD,
        store.user_folder,
        store.shipped_folder,
        engine,
    ]
    assert subprocess.run(command, timeout=60).returncode == code


_A_NEW_ONE_IN_A_FORKED_CHILD = """
import multiprocessing, sys
import numpy as np
from KDSegmentatorLib import PackStore, Segmenter
from KDSegmentatorLib.geometry import Volume
store = PackStore(sys.argv[1], sys.argv[2])
volume = Volume(np.random.default_rng(0).normal(100, 20, (16, 18, 20)).astype(np.float32), (1.0, 1.0, 1.0))
def segment():
    record = Segmenter("generated", "x1/2", store=store, check_input=False)(volume).record
    sys.exit(0 if record.engine == "onnxruntime" else 4)
for _ in range(3):
    Segmenter("generated", "x1/2", store=store, check_input=False, engine="openvino")(volume)
child = multiprocessing.get_context("fork").Process(target=segment)
child.start()
child.join(40)
code = child.exitcode
child.kill()
sys.exit(5 if code is None else code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only on Linux and macOS processes are forked")
def test_a_new_segmenter_in_a_forked_process_does_without_the_openvino_of_its_parent(store: PackStore) -> None:
    pytest.importorskip("openvino")
    folders = [str(store.user_folder), str(store.shipped_folder)]
    command = [sys.executable, "-W", "ignore", "-c", _A_NEW_ONE_IN_A_FORKED_CHILD, *folders]
    assert subprocess.run(command, timeout=90).returncode == 0


# ---- cancelling ----


def test_loading_can_be_cancelled(store: PackStore) -> None:
    with pytest.raises(CancelledError):
        Segmenter("generated", "x1/2", store=store, cancel=lambda: True)
    segmenter = Segmenter("generated", "auto", store=store)
    pack = segmenter.choose(SMALL).pack
    with pytest.raises(CancelledError):
        segmenter.engine_for(pack, lambda: True)
    assert segmenter.engine_for(pack).engine.name


def test_measuring_the_machine_can_be_cancelled(
    store: PackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSEGMENTATOR_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(CancelledError):
        Segmenter("generated", "auto", store=store).choose(SMALL, cancel=lambda: True)
    with pytest.raises(CancelledError):
        Segmenter("generated", "auto", store=store)(SMALL, cancel=lambda: True)


def test_a_call_hands_its_cancel_on_to_loading(store: PackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []

    def spy(pack: StudentPack, request: RunOptions, **named: Any) -> ChosenEngine:
        handed.append(named["cancelled"])
        return choose_engine(pack, request, **named)

    monkeypatch.setattr(module, "choose_engine", spy)

    def go_on() -> bool:
        return False

    Segmenter("generated", "auto", store=store)(SMALL, cancel=go_on)
    assert handed == [go_on]


class TestRegionGiven:
    """Chained packs on a volume that shows nothing but the region already."""

    @pytest.fixture
    def chained(self, tmp_path: Path) -> PackStore:
        store = PackStore(tmp_path / "user", tmp_path / "shipped")
        install_earlier(store, tmp_path, threshold=2.5)  # or the margin would reach every voxel
        for seed, size in enumerate(("x1/4", "x1/2")):
            install_later(store, tmp_path, region=after_earlier(), size=size, seed=seed)
        return store

    def test_it_is_not_looked_for(self, chained: PackStore, made: list[str]) -> None:
        given = Segmenter("inside", "x1/4", engine="onnxruntime", threads=1, store=chained, region="given")
        assert made == ["inside-x1_4"]
        assert given.options.region == "given"
        assert given.region_pack is None
        assert given.choose(SMALL).region_pack is None
        stages: list[str] = []
        result = given(SMALL, progress=lambda step: stages.append(step.stage))
        assert list(dict.fromkeys(stages)) == ["preprocess", "windows", "restore"]
        assert result.record.region is None
        expected = segment(SMALL, given.pack, given.engine.engine, RunOptions(region="given", threads=1)).volume.voxels
        np.testing.assert_array_equal(result.volume.voxels, expected)
        found = Segmenter("inside", "x1/4", engine="onnxruntime", threads=1, store=chained)
        assert (found(SMALL).volume.voxels != expected).any()

    def test_auto_does_not_look_for_it_either(self, chained: PackStore, made: list[str]) -> None:
        automatic = Segmenter("inside", "auto", engine="onnxruntime", threads=1, store=chained, region="given")
        assert automatic(SMALL).record.region is None
        assert made == ["inside-x1_2"]

    @pytest.mark.parametrize("size", ["x1/4", "auto"])
    def test_a_pack_without_an_earlier_stage_is_refused(self, chained: PackStore, made: list[str], size: str) -> None:
        with pytest.raises(InvalidSettingsError, match=f"{EARLIER} has no earlier stage .* without --region"):
            Segmenter("bright", size, store=chained, region="given")
        assert made == []

    def test_anything_else_is_refused(self, chained: PackStore) -> None:
        wrong: Any = True
        with pytest.raises(InvalidSettingsError, match="there is no region True"):
            Segmenter("inside", "x1/4", store=chained, region=wrong)

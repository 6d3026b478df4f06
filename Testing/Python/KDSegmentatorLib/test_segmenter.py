from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib import segmenter as module
from KDSegmentatorLib.advisor import selection
from KDSegmentatorLib.advisor.advice import Hardware
from KDSegmentatorLib.engines.candidates import EngineRequest
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

    def spy(pack: StudentPack, request: EngineRequest, **named: Any) -> ChosenEngine:
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


@pytest.mark.parametrize("sizes", [(), ("auto",)])
def test_auto_takes_a_pack_for_each_volume_and_keeps_its_engine(
    store: PackStore, made: list[str], monkeypatch: pytest.MonkeyPatch, sizes: tuple[str, ...]
) -> None:
    segmenter = Segmenter("generated", *sizes, store=store)
    assert made == []
    with pytest.raises(InvalidSettingsError, match=r"choose\(volume\)"):
        _ = segmenter.pack
    with pytest.raises(InvalidSettingsError, match="name a size"):
        _ = segmenter.engine
    assert segmenter(SMALL).record.size == "x1"
    assert segmenter(SMALL).record.size == "x1"
    assert len(made) == 1
    monkeypatch.setattr(selection, "detect_hardware", lambda: Hardware(logical_cores=1, available_memory=1))
    assert segmenter(LARGE).record.size == "x1/4"
    assert "smallest size" in str(segmenter.choose(LARGE).reason)
    assert len(made) == 2


def test_a_choice_is_not_made_twice(store: PackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter("generated", store=store)
    choice = segmenter.choose(SMALL)
    monkeypatch.setattr(selection, "detect_hardware", lambda: pytest.fail("chosen again"))
    assert segmenter(SMALL, choice=replace(choice, reason=None)).record.pack_id == choice.pack.manifest.id


def test_what_is_asked_for_reaches_the_engine_and_the_pipeline(store: PackStore) -> None:
    segmenter = Segmenter(
        "generated", "x1/2", engine="onnxruntime", precision="float32", device="cpu", threads=1, store=store
    )
    assert segmenter.engine.reason == "onnxruntime float32 on cpu: exact"
    found = segmenter(SMALL, entropy=True, probabilities=["structure 2"], labels=[1], check_input=False)
    assert (found.record.engine, found.record.threads, found.record.checked) == ("onnxruntime", 1, False)
    assert found.entropy is not None
    assert list(found.probabilities) == [2]
    assert [label.value for label in found.labels] == [1]


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        ({"engine": "abacus"}, InvalidSettingsError, "there is no engine 'abacus'"),
        ({"threads": 0}, InvalidSettingsError, "threads must be a whole number from 1 to 1024"),
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
    segmenter = Segmenter("generated", store=store)
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


# ---- cancelling ----


def test_loading_can_be_cancelled(store: PackStore) -> None:
    with pytest.raises(CancelledError):
        Segmenter("generated", "x1/2", store=store, cancel=lambda: True)
    segmenter = Segmenter("generated", store=store)
    pack = segmenter.choose(SMALL).pack
    with pytest.raises(CancelledError):
        segmenter.engine_for(pack, lambda: True)
    assert segmenter.engine_for(pack).engine.name


def test_measuring_the_machine_can_be_cancelled(
    store: PackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDSEGMENTATOR_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(CancelledError):
        Segmenter("generated", store=store).choose(SMALL, cancel=lambda: True)
    with pytest.raises(CancelledError):
        Segmenter("generated", store=store)(SMALL, cancel=lambda: True)


def test_a_call_hands_its_cancel_on_to_loading(store: PackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []

    def spy(pack: StudentPack, request: EngineRequest, **named: Any) -> ChosenEngine:
        handed.append(named["cancelled"])
        return choose_engine(pack, request, **named)

    monkeypatch.setattr(module, "choose_engine", spy)

    def go_on() -> bool:
        return False

    Segmenter("generated", store=store)(SMALL, cancel=go_on)
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
        assert given.region_given
        assert given.region_pack is None
        assert given.choose(SMALL).region_pack is None
        stages: list[str] = []
        result = given(SMALL, progress=lambda step: stages.append(step.stage))
        assert list(dict.fromkeys(stages)) == ["preprocess", "windows", "restore"]
        assert result.record.region is None
        expected = segment(SMALL, given.pack, given.engine.engine, region="given", threads=1).volume.voxels
        np.testing.assert_array_equal(result.volume.voxels, expected)
        found = Segmenter("inside", "x1/4", engine="onnxruntime", threads=1, store=chained)
        assert not found.region_given
        assert (found(SMALL).volume.voxels != expected).any()
        # also with a choice that knows of the earlier stage
        again = given(SMALL, choice=found.choose(SMALL)).volume.voxels
        np.testing.assert_array_equal(again, expected)

    def test_auto_does_not_look_for_it_either(self, chained: PackStore, made: list[str]) -> None:
        automatic = Segmenter("inside", engine="onnxruntime", threads=1, store=chained, region="given")
        assert automatic(SMALL).record.region is None
        assert made == ["inside-x1_2"]

    @pytest.mark.parametrize("size", ["x1/4", "auto"])
    def test_a_pack_without_an_earlier_stage_is_refused(self, chained: PackStore, made: list[str], size: str) -> None:
        with pytest.raises(InvalidSettingsError, match=f"{EARLIER} has no earlier stage .* without --region"):
            Segmenter("bright", size, store=chained, region="given")
        assert made == []

    def test_anything_else_is_refused(self, chained: PackStore) -> None:
        wrong: Any = True
        with pytest.raises(InvalidSettingsError, match="must be 'given' or None, got True"):
            Segmenter("inside", "x1/4", store=chained, region=wrong)

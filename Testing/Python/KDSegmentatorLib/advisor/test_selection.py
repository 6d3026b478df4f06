from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.advisor import selection
from KDSegmentatorLib.advisor.selection import AUTOMATIC, select
from KDSegmentatorLib.engines.candidates import EngineRequest
from KDSegmentatorLib.errors import EngineUnavailableError, ManifestError, PackError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.machine.hardware import Hardware, detect_hardware
from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import ALPHAS, build_size

VOLUME = Volume(np.random.default_rng(0).gamma(2, 100, size=(20, 24, 18)).astype(np.float32), (1.0, 1.0, 1.0))


@pytest.fixture
def store(tmp_path: Path) -> PackStore:
    """Return a store with two tasks, one of which has all sizes."""
    shipped = tmp_path / "shipped"
    for size in ALPHAS:
        build_size(shipped / f"generated-{size.replace('/', '_')}", size)
    build_size(shipped / "other-x1_4", "x1/4", task="other")
    return PackStore(tmp_path / "user", shipped)


def damage(store: PackStore, size: str) -> None:
    (store.shipped_folder / f"generated-{size.replace('/', '_')}" / "manifest.json").write_text("{}", encoding="utf-8")


def test_an_open_size_leaves_all_of_the_task_the_largest_first(store: PackStore) -> None:
    found = select(store, "generated", AUTOMATIC)
    assert found.automatic
    assert [pack.manifest.size for pack in found.packs.packs] == ["x1", "x1/2", "x1/4"]
    assert found.damaged == ()


def test_without_a_size_the_recommended_one_is_taken_whatever_the_machine(store: PackStore) -> None:
    assert [pack.manifest.size for pack in select(store, "generated").packs.packs] == ["x1/4"]
    damage(store, "x1/4")
    found = select(store, "Generated")
    assert ([pack.manifest.size for pack in found.packs.packs], found.automatic) == (["x1/2"], False)
    assert [pack.id for pack in found.damaged] == ["generated-x1_4"]


def test_a_fixed_size_is_that_one(store: PackStore) -> None:
    found = select(store, "generated", "x1/2")
    assert not found.automatic
    assert [pack.manifest.id for pack in found.packs.packs] == ["generated-x1_2"]


def test_the_largest_size_that_is_quick_enough_is_chosen_with_the_reason(store: PackStore) -> None:
    choice = select(store, "generated", AUTOMATIC).choose(VOLUME)
    assert choice.pack.manifest.size == "x1"
    assert choice.reason is not None
    assert choice.reason.startswith("x1 is the largest size expected to finish within 10 s (estimated ")


def test_memory_that_other_programs_take_does_not_decide_the_size_but_is_said(
    store: PackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = detect_hardware()
    busy = replace(found, available_memory=50_000_000, total_memory=max(found.total_memory or 0, 8_000_000_000))
    monkeypatch.setattr(selection, "detect_hardware", lambda: busy)
    choice = select(store, "generated", AUTOMATIC).choose(VOLUME)
    assert choice.pack.manifest.size == "x1"
    assert choice.reason is not None
    assert "at the moment x1 needs about" in choice.reason


def test_with_a_fixed_size_there_is_nothing_to_say(store: PackStore) -> None:
    choice = select(store, "generated", "x1/4").choose(VOLUME)
    assert (choice.pack.manifest.size, choice.reason) == ("x1/4", None)


def test_a_fixed_size_that_memory_will_not_do_for_is_taken_with_a_warning(
    store: PackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = replace(detect_hardware(), available_memory=50_000_000)
    monkeypatch.setattr(selection, "detect_hardware", lambda: little)
    choice = select(store, "generated", "x1").choose(VOLUME)
    assert choice.pack.manifest.size == "x1"
    assert choice.reason is not None
    assert choice.reason.startswith("x1 needs about ")
    said = "it may fail or slow the computer down; a smaller size, if there is one, or fewer threads take less"
    assert choice.reason.endswith(said)


def test_wishes_and_the_way_to_run_reach_the_estimate(store: PackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "detect_hardware", lambda: Hardware(logical_cores=2, available_memory=None))
    seen = []
    before = selection.advise

    def spy(*arguments: object, **options: object) -> object:
        seen.append({name: value for name, value in options.items() if name != "speed_of"})
        return before(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(selection, "advise", spy)
    request = EngineRequest(engine="onnxruntime", threads=1)
    select(store, "generated", AUTOMATIC).choose(VOLUME, request=request, mirroring=True, entropy=True, probabilities=2)
    assert seen == [{"request": request, "mirroring": True, "entropy": True, "probabilities": 2, "region_packs": {}}]


def test_what_nothing_here_can_run_is_refused(store: PackStore) -> None:
    with pytest.raises(EngineUnavailableError, match=r"generated x1/4 cannot be run here with precision int8"):
        select(store, "generated", AUTOMATIC).choose(VOLUME, request=EngineRequest(precision="int8"))


def test_damaged_packs_are_left_out_and_named(store: PackStore) -> None:
    damage(store, "x1")
    found = select(store, "generated", AUTOMATIC)
    assert [pack.id for pack in found.damaged] == ["generated-x1"]
    choice = found.choose(VOLUME)
    assert choice.pack.manifest.size == "x1/2"
    assert str(choice.reason).endswith("; left out as unusable: generated-x1")
    assert select(store, "generated", "x1/2").damaged == ()
    assert select(store, "other").damaged == ()


def test_a_damaged_pack_that_is_asked_for_says_what_is_wrong_with_it(store: PackStore) -> None:
    damage(store, "x1")
    with pytest.raises(ManifestError):
        select(store, "generated", "x1")


def test_a_task_with_nothing_but_damaged_packs(store: PackStore) -> None:
    for size in ALPHAS:
        damage(store, size)
    with pytest.raises(ManifestError):
        select(store, "generated")


@pytest.mark.parametrize(
    ("task", "size", "said"),
    [
        ("spleen", AUTOMATIC, "there is no pack for the task 'spleen'; tasks: generated, other"),
        ("generated", "x1/8", "there is no generated pack of the size 'x1/8'; sizes: x1, x1/2, x1/4"),
    ],
)
def test_no_such_pack(store: PackStore, task: str, size: str, said: str) -> None:
    with pytest.raises(PackError, match=said):
        select(store, task, size)

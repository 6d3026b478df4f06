from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.engines.self_check import (
    FLOAT32_AGREEMENT,
    TOLERANCE,
    agreement,
    checked_agreement,
    required_agreement,
)
from KDSegmentatorLib.errors import CancelledError, PackError
from KDSegmentatorLib.packs.array_files import Probe
from KDSegmentatorLib.packs.manifest import Precision
from KDSegmentatorLib.packs.pack import Head, StudentPack
from support.generated_packs import manifest, write_pack
from support.reduced_packs import RIGHT, WRONG, not_a_number_body, write_reduced_pack


class Counting:
    """An engine that says what it is told about itself, and counts its runs."""

    def __init__(
        self, body: bytes = RIGHT, *, name: str = "openvino", device: str = "cpu", precision: Precision = "int8"
    ) -> None:
        self._engine = OnnxRuntimeEngine(body)
        self.name, self.device, self.precision = name, device, precision
        self.runs = 0

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        self.runs += 1
        if cancelled():
            raise CancelledError("cancelled; nothing was written")
        return self._engine.run(windows, cancelled)


class Giving:
    """An engine that gives the same features for every window."""

    name = "openvino"
    device = "cpu"
    precision: Precision = "int8"

    def __init__(self, features: npt.NDArray[np.float32]) -> None:
        self._features = features

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        del windows, cancelled
        return self._features


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> StudentPack:
    return write_reduced_pack(tmp_path_factory.mktemp("packs") / "p")


def never() -> bool:
    return False


def checked(pack: StudentPack, engine: Engine, cache: Path | None, machine: str = "this") -> float:
    return checked_agreement(pack, engine, machine=machine, cache=cache, cancelled=never)


def probe_of(labels: list[int]) -> Probe:
    return Probe(window=np.zeros((1, 1, 1, 1, len(labels)), np.float32), labels=np.array([[labels]], np.uint8))


def features_for(labels: list[float]) -> npt.NDArray[np.float32]:
    """Return features with which :data:`THREE_LABELS` gives these labels."""
    return np.array([[[[labels]]]], np.float32)


THREE_LABELS = Head(np.array([[0.0], [1.0], [2.0]], np.float32), np.array([0.0, -0.5, -2.0], np.float32))


@pytest.mark.parametrize(
    ("expected", "given", "share"),
    [
        ([0, 0, 1, 2], [0, 0, 1, 2], 1.0),
        ([0, 0, 1, 2], [0, 0, 1, 1], 0.5),
        ([0, 0, 1, 2], [0, 1, 1, 2], 2 / 3),  # foreground where there should be none counts as well
        ([0, 0, 1, 2], [0, 0, 0, 0], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),  # no foreground at all
        ([0, 0, 1, 2], [0, 0, 1, float("nan")], 0.0),  # one such number is enough
        ([0, 0, 1, 2], [0, 0, 1, float("inf")], 0.0),
    ],
)
def test_agreement_is_counted_in_the_foreground(expected: list[int], given: list[float], share: float) -> None:
    assert agreement(Giving(features_for(given)), probe_of(expected), THREE_LABELS) == pytest.approx(share)


def test_a_right_and_a_wrong_network(pack: StudentPack) -> None:
    probe = pack.probe()
    assert probe is not None
    assert agreement(OnnxRuntimeEngine(RIGHT), probe, pack.head()) == 1.0
    assert agreement(OnnxRuntimeEngine(WRONG), probe, pack.head()) < 0.6
    assert agreement(OnnxRuntimeEngine(not_a_number_body()), probe, pack.head()) == 0.0


def test_what_is_required_follows_from_the_exporting_machine(tmp_path: Path) -> None:
    pack = write_reduced_pack(tmp_path / "p", agreement=0.97)
    assert required_agreement(pack, Counting(precision="int8")) == pytest.approx(0.97 - TOLERANCE)
    assert required_agreement(pack, Counting(precision="bfloat16")) == pytest.approx(0.97 - TOLERANCE)
    assert required_agreement(pack, Counting(precision="float32", device="cuda")) == FLOAT32_AGREEMENT


def test_a_check_is_made_once(pack: StudentPack, tmp_path: Path) -> None:
    right, again = Counting(), Counting(WRONG)
    assert checked(pack, right, tmp_path / "checks") == 1.0
    assert checked(pack, again, tmp_path / "checks") == 1.0
    assert (right.runs, again.runs) == (1, 0)


def test_a_failed_check_is_remembered_too(pack: StudentPack, tmp_path: Path) -> None:
    found = checked(pack, Counting(WRONG), tmp_path)
    again = Counting(RIGHT)
    assert checked(pack, again, tmp_path) == found < 0.6
    assert again.runs == 0


@pytest.mark.parametrize(
    ("engine", "machine"),
    [
        (Counting(), "another"),
        (Counting(name="onnxruntime"), "this"),
        (Counting(device="gpu"), "this"),
        (Counting(precision="bfloat16"), "this"),
    ],
    ids=["machine", "engine", "device", "precision"],
)
def test_a_check_holds_for_nothing_else(pack: StudentPack, tmp_path: Path, engine: Counting, machine: str) -> None:
    checked(pack, Counting(), tmp_path)
    checked(pack, engine, tmp_path, machine)
    assert engine.runs == 1


def test_a_check_does_not_hold_for_another_pack(pack: StudentPack, tmp_path: Path) -> None:
    cache = tmp_path / "checks"
    checked(pack, Counting(), cache)
    newer = write_reduced_pack(tmp_path / "newer", base=manifest(version="1.0.1"))
    engine = Counting()
    checked(newer, engine, cache)
    assert engine.runs == 1


def test_without_a_cache_it_is_made_each_time(pack: StudentPack) -> None:
    engine = Counting()
    for _ in range(2):
        checked(pack, engine, None)
    assert engine.runs == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"agreement": 1.0}',
        '{"key": "another", "agreement": 1.0}',
        '{"key": KEY, "agreement": 1.5}',
        '{"key": KEY, "agreement": -0.5}',
        '{"key": KEY, "agreement": NaN}',
        '{"key": KEY, "agreement": "1"}',
        '{"key": KEY}',
    ],
)
def test_a_damaged_check_is_made_anew(pack: StudentPack, tmp_path: Path, content: str) -> None:
    checked(pack, Counting(), tmp_path)
    (file,) = tmp_path.iterdir()
    key = json.loads(file.read_text(encoding="utf-8"))["key"]
    file.write_text(content.replace("KEY", json.dumps(key)), encoding="utf-8")
    engine = Counting()
    assert checked(pack, engine, tmp_path) == 1.0
    assert engine.runs == 1
    assert json.loads(file.read_text(encoding="utf-8")) == {"key": key, "agreement": 1.0}


def test_bytes_that_are_no_text(pack: StudentPack, tmp_path: Path) -> None:
    checked(pack, Counting(), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"\xff\xfe\x00")
    assert checked(pack, Counting(), tmp_path) == 1.0


def test_a_cache_that_cannot_be_written_does_not_stop_the_work(pack: StudentPack, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    engine = Counting()
    for _ in range(2):
        assert checked(pack, engine, tmp_path / "file" / "checks") == 1.0
    assert engine.runs == 2


def test_a_cancelled_check_is_not_remembered(pack: StudentPack, tmp_path: Path) -> None:
    with pytest.raises(CancelledError):
        checked_agreement(pack, Counting(), machine="this", cache=tmp_path, cancelled=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_a_pack_without_a_probe(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="has no probe"):
        checked(write_pack(tmp_path / "p"), Counting(), None)


def test_a_damaged_probe(tmp_path: Path) -> None:
    pack = write_reduced_pack(tmp_path / "p")
    probe = pack.folder / "probe.npz"
    content = bytearray(probe.read_bytes())
    content[len(content) // 2] ^= 1
    probe.write_bytes(content)
    with pytest.raises(PackError, match="not the file that the manifest lists"):
        checked(replace(pack), Counting(), None)

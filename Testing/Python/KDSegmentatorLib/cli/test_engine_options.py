"""``kdseg segment`` with --engine, --precision, --device, --threads, --entropy and --probability."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from KDSegmentatorLib import segmenter
from KDSegmentatorLib.advice import Choice
from KDSegmentatorLib.cli.terminal import Interrupt
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import InsufficientMemoryError
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.store import PackStore
from support.generated_packs import manifest, write_pack
from support.reduced_packs import (
    RIGHT,
    WRONG,
    claim_openvino_abilities,
    not_a_number_body,
    write_reduced_pack,
)

PACK = ["--pack", "generated", "--size", "x1/4"]

NEWER = manifest(version="2.0.0")
"""Of an update of the installed x1/4."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def record_of(kdseg: Callable[..., tuple[int, str, str]], scan: Path, *options: object) -> dict[str, Any]:
    path = scan.with_name("record.json")
    code, _, err = kdseg("segment", scan, scan.with_name("labels.nii.gz"), *PACK, "--record", path, *options)
    assert code == 0, err
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_engine_that_is_asked_for_is_taken_and_recorded(
    kdseg: Any, scan: Path, store: PackStore, engine: str
) -> None:
    record = record_of(kdseg, scan, "--engine", engine, "--precision", "float32", "--device", "cpu", "--threads", "1")
    assert (record["engine"], record["precision"], record["device"]) == (engine, "float32", "cpu")
    assert record["threads"] == 1
    assert record["engine_reason"] == f"{engine} float32 on cpu: exact"
    assert record["input_sha256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    pack = store.get("generated-x1_4")
    chosen = choose_engine(pack, RunOptions(engine=engine)).engine
    expected = segment(read_volume(scan), pack, chosen).volume
    np.testing.assert_array_equal(read_volume(scan.with_name("labels.nii.gz")).voxels, expected.voxels)


def test_threads_reach_the_engine(kdseg: Any, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int | None] = []
    make = OnnxRuntimeEngine.__init__

    def spy(self: OnnxRuntimeEngine, body: bytes, *, device: str = "cpu", threads: int | None = None) -> None:
        given.append(threads)
        make(self, body, device=device, threads=threads)

    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", spy)
    record_of(kdseg, scan, "--engine", "onnxruntime", "--threads", "2")
    assert given == [2]


def test_a_reduced_precision_is_shown_and_recorded(
    kdseg: Any, scan: Path, store: PackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "BF16", "INT8"})
    store.install(write_reduced_pack(tmp_path / "p", {"bfloat16": RIGHT, "int8": WRONG}, base=NEWER).folder)
    record = record_of(kdseg, scan)
    assert record["precision"] == "bfloat16"
    assert record["engine_reason"].startswith("openvino bfloat16 on cpu: ")
    assert "not openvino int8 on cpu: it gives " in record["engine_reason"]
    code, out, _ = kdseg("segment", scan, scan.with_name("a.nii"), *PACK)
    assert code == 0
    assert f"Engine  {record['engine_reason']}" in out
    assert record_of(kdseg, scan, "--precision", "float32")["precision"] == "float32"


def everything(scan: Path) -> list[object]:
    """Return options for all outputs there are."""
    paths = [scan.with_name(name) for name in ("t.csv", "o.png", "r.json", "entropy.nii", "one.nii.gz", "two.mha")]
    table, picture, record, entropy, one, two = paths
    return [
        *("--statistics", table, "--overlay", picture, "--record", record, "--entropy", entropy),
        *("--probability", "1", one, "--probability", "STRUCTURE 2", two),
    ]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--precision", "bfloat16"], 1, "with precision bfloat16: openvino bfloat16 on cpu: the "),
        (["--precision", "int8"], 1, "the pack was not accepted in int8"),
        (["--precision", "int8", "--engine", "onnxruntime"], 1, "computes in float32 only, not in int8"),
        (["--device", "npu"], 1, "with device npu: openvino: finds no npu (only cpu)"),
        (["--engine", "onnxruntime", "--device", "cuda"], 1, "onnxruntime: has no provider for cuda (only cpu)"),
        (["--device", "tpu"], 2, "invalid choice: 'tpu'"),
        (["--precision", "float16"], 2, "invalid choice: 'float16'"),
        (["--entropy", "entropy.txt"], 2, "--entropy entropy.txt: the name must end with"),
        (["--entropy", "labels.nii.gz"], 2, "is the same file as OUTPUT"),
        (["--entropy", "scan.nii.gz"], 2, "is the same file as INPUT"),
        (["--probability", "1", "missing/a.nii"], 2, "--probability 1 missing/a.nii: there is no folder"),
        (["--probability", "spleen", "a.nii"], 2, "has no label 'spleen'; it has: structure 1 (1)"),
        (["--probability", "0", "a.nii"], 2, "has no label '0'"),
        (["--probability", "1", "a.nii", "--probability", "2", "a.nii"], 2, "is the same file as --probability 1"),
        (["--probability", "1"], 2, "expected 2 arguments"),
    ],
)
def test_what_is_not_possible_is_an_error_and_nothing_is_written(
    kdseg: Any,
    scan: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    message: str,
) -> None:
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "INT8"})
    monkeypatch.setattr("KDSegmentatorLib.engines.candidates.onnxruntime_devices", lambda: ("cpu",))
    monkeypatch.chdir(scan.parent)
    found, out, err = kdseg("segment", scan.name, "labels.nii.gz", *PACK, *options, *everything(scan)[:6])
    assert found == code, err
    assert message in err
    assert out == ""
    assert names(scan.parent) == [scan.name]


def test_entropy_and_probabilities_appear_on_the_inputs_grid(kdseg: Any, scan: Path, store: PackStore) -> None:
    code, out, err = kdseg("segment", scan, scan.with_name("labels.nii.gz"), *PACK, *everything(scan))
    assert code == 0, err
    volume, pack = read_volume(scan), store.get("generated-x1_4")
    expected = segment(volume, pack, choose_engine(pack).engine, RunOptions(entropy=True, probabilities=[1, 2]))
    assert expected.entropy is not None
    before = SimpleITK.ReadImage(str(scan))
    for name, map_ in (
        ("entropy.nii", expected.entropy),
        ("one.nii.gz", expected.probabilities[1]),
        ("two.mha", expected.probabilities[2]),
    ):
        path = scan.with_name(name)
        written = read_volume(path)
        np.testing.assert_array_equal(written.voxels, map_.voxels)
        assert written.voxels.dtype == np.float32
        assert written.same_grid(volume)
        after = SimpleITK.ReadImage(str(path))
        assert after.GetDirection() == pytest.approx(before.GetDirection(), abs=1e-6)
        assert after.GetOrigin() == pytest.approx(before.GetOrigin(), abs=1e-4)
        assert after.GetSpacing() == pytest.approx(before.GetSpacing(), abs=1e-6)
        assert str(path) in out
    assert 0 < expected.entropy.voxels.max() <= 2  # two bits: four labels
    assert len(names(scan.parent)) == 8


def test_a_structure_that_is_not_kept_has_a_probability_too(kdseg: Any, scan: Path) -> None:
    path = scan.with_name("two.nii")
    code, _, err = kdseg(
        "segment", scan, scan.with_name("labels.nii"), *PACK, "--labels", "1", "--probability", "structure 2", path
    )
    assert code == 0, err
    assert set(np.unique(read_volume(scan.with_name("labels.nii")).voxels)) <= {0, 1}
    assert read_volume(path).voxels.max() > 0.3


def test_without_the_options_there_are_no_such_files(kdseg: Any, scan: Path) -> None:
    assert kdseg("segment", scan, scan.with_name("labels.nii"), *PACK)[0] == 0
    assert names(scan.parent) == ["labels.nii", scan.name]


def test_a_network_that_gives_nan_is_an_error_and_nothing_is_written(
    kdseg: Any, scan: Path, store: PackStore, tmp_path: Path
) -> None:
    store.install(write_pack(tmp_path / "p", manifest=NEWER, body=not_a_number_body()).folder)
    for engine in ("openvino", "onnxruntime"):
        code, out, err = kdseg(
            "segment", scan, scan.with_name("labels.nii"), *PACK, "--engine", engine, *everything(scan)
        )
        assert (code, out) == (1, "")
        assert f"the engine {engine} (float32) gave numbers that are not finite; take another engine" in err
        assert "Traceback" not in err
    assert names(scan.parent) == [scan.name]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("the device was lost"), "OpenVINO failed on a window of shape (1, 1, 16, 16, 16): the device"),
        (RuntimeError("std::bad_alloc"), "there is not enough memory for a window of (16, 16, 16) voxels; close other"),
    ],
)
def test_an_engine_that_fails_in_the_middle_is_an_error_and_nothing_is_written(
    kdseg: Any, scan: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    make = OpenVinoEngine.__init__

    class Failing:
        """Runs one window, and fails on the second."""

        def __init__(self, request: Any) -> None:
            self._request = request
            self._runs = 0

        def start_async(self, *arguments: Any, **named: Any) -> None:
            self._runs += 1
            if self._runs == 2:
                raise error
            self._request.start_async(*arguments, **named)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._request, name)

    def fail(self: OpenVinoEngine, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        self._request = Failing(self._request)

    monkeypatch.setattr(OpenVinoEngine, "__init__", fail)
    options = [*PACK, "--engine", "openvino", *everything(scan)]
    code, out, err = kdseg("segment", scan, scan.with_name("labels.nii"), *options)
    assert (code, out) == (1, "")
    assert message in err
    assert names(scan.parent) == [scan.name]


def test_too_little_memory_is_an_error_and_nothing_is_written(
    kdseg: Any, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("KDSegmentatorLib.inference.preprocessing.normalize", short)
    code, out, err = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, *everything(scan))
    assert (code, out) == (1, "")
    assert "there is not enough memory to segment 8,640 voxels with generated-x1_4; close other programs" in err
    assert names(scan.parent) == [scan.name]


def test_the_error_of_a_loading_engine_is_one_line(kdseg: Any, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise InsufficientMemoryError("there is not enough memory\nto load the network")

    monkeypatch.setattr("KDSegmentatorLib.engines.selection._load", short)
    code, _, err = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, "--quiet")
    assert code == 1
    assert err == "kdseg: there is not enough memory to load the network\n"


def test_a_failed_check_of_what_was_asked_for_writes_nothing(
    kdseg: Any, scan: Path, store: PackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "BF16", "INT8"})
    pack = write_reduced_pack(tmp_path / "p", {"bfloat16": WRONG}, base=NEWER)
    store.install(pack.folder)
    code, _, err = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, "--precision", "bfloat16")
    assert code == 1
    assert "kdseg: openvino bfloat16 on cpu: it gives " in err
    assert err.endswith("; leave --engine, --precision and --device out to take what works here\n")
    assert names(scan.parent) == [scan.name]


def test_the_advice_knows_of_everything_that_is_asked_for(
    kdseg: Any, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[RunOptions, Any]] = []
    choose = segmenter.choose

    def spy(selection: Any, volume: Any, options: RunOptions, *, cancelled: Any) -> Choice:
        asked.append((options, cancelled))
        return choose(selection, volume, options, cancelled=cancelled)

    monkeypatch.setattr(segmenter, "choose", spy)
    code, _, err = kdseg("segment", scan, scan.with_name("labels.nii.gz"), *PACK, *everything(scan))
    assert code == 0, err
    ((options, cancelled),) = asked
    assert isinstance(cancelled.__self__, Interrupt)
    assert (options.mirroring, options.entropy, len(options.probabilities)) == (False, True, 2)

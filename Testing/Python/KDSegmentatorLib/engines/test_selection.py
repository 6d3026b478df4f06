from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.engines import candidates, loading, openvino_engine, selection
from KDSegmentatorLib.engines.candidates import Candidate
from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.loading import engine_threads
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine
from KDSegmentatorLib.engines.openvino_runtime import openvino_core, openvino_runtime
from KDSegmentatorLib.engines.selection import ChosenEngine, choose_engine
from KDSegmentatorLib.errors import (
    CancelledError,
    EngineError,
    EngineUnavailableError,
    InsufficientMemoryError,
    PackError,
)
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Precision, ReducedFormat
from KDSegmentatorLib.packs.pack import StudentPack
from support.generated_packs import convolution_body, manifest, write_pack
from support.reduced_packs import (
    REDUCED,
    RIGHT,
    WRONG,
    claim_openvino_abilities,
    not_a_number_body,
    write_reduced_pack,
)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor have instructions for every precision."""
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "BF16", "INT8"})


@pytest.fixture
def choose(tmp_path: Path) -> Callable[..., ChosenEngine]:
    """Return :func:`choose_engine` with a cache of the test's own."""

    def choose(pack: StudentPack, **request: Any) -> ChosenEngine:
        return choose_engine(pack, RunOptions(**request), cache=tmp_path / "cache")

    return choose


def title(engine: Engine) -> str:
    return f"{engine.name} {engine.precision} on {engine.device}"


def write(folder: Path, bodies: Mapping[ReducedFormat, bytes] = REDUCED, *, agreement: float = 1.0) -> StudentPack:
    return write_reduced_pack(folder / "pack", bodies, agreement=agreement)


def test_a_plain_pack_runs_in_float32_and_the_reason_says_so(
    tmp_path: Path, choose: Callable[..., ChosenEngine], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    with caplog.at_level(logging.INFO):
        chosen = choose(write_pack(tmp_path / "p"))
    assert title(chosen.engine) == "openvino float32 on cpu"
    assert chosen.reason == "openvino float32 on cpu: exact"
    assert chosen.reason in caplog.text


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_a_reduced_precision_that_passes_is_taken(
    tmp_path: Path, choose: Callable[..., ChosenEngine], precision: ReducedFormat
) -> None:
    chosen = choose(write(tmp_path, {precision: RIGHT}))
    assert title(chosen.engine) == f"openvino {precision} on cpu"
    share = re.search(r"\((\d+\.\d+)% of the probe as in float32\)$", chosen.reason)
    assert share is not None
    assert 99 <= float(share[1]) <= 100


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("wrong", [WRONG, not_a_number_body(), b"not a network"], ids=["wrong", "nan", "damaged"])
def test_a_precision_that_fails_is_left_out_and_said(
    tmp_path: Path, choose: Callable[..., ChosenEngine], caplog: pytest.LogCaptureFixture, wrong: bytes
) -> None:
    chosen = choose(write(tmp_path, {"int8": wrong, "bfloat16": RIGHT}))
    assert title(chosen.engine) == "openvino bfloat16 on cpu"
    assert chosen.reason.startswith("openvino bfloat16 on cpu: ")
    assert "; not openvino int8 on cpu: " in chosen.reason
    assert "openvino int8 on cpu is left out: " in caplog.text


@pytest.mark.usefixtures("able")
def test_when_every_reduced_precision_fails_float32_is_taken(
    tmp_path: Path, choose: Callable[..., ChosenEngine]
) -> None:
    chosen = choose(write(tmp_path, {"int8": WRONG, "bfloat16": not_a_number_body()}))
    assert title(chosen.engine) == "openvino float32 on cpu"
    assert "not openvino int8 on cpu: it gives " in chosen.reason
    assert "not openvino bfloat16 on cpu: it gives 0.00% of the probe's voxels" in chosen.reason
    assert chosen.reason.count("99.00% are needed") == 2


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    ("wrong", "found"), [(not_a_number_body(), "it gives 0.00%"), (b"not a network", "does not load")]
)
@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_a_precision_that_is_asked_for_and_fails_is_an_error(
    tmp_path: Path, choose: Callable[..., ChosenEngine], precision: ReducedFormat, wrong: bytes, found: str
) -> None:
    with pytest.raises(EngineError, match=f"openvino {precision} on cpu: .*{found}.*leave .* out to take what works"):
        choose(write(tmp_path, {precision: wrong}), precision=precision)


@pytest.mark.usefixtures("able")
def test_what_the_exporting_machine_reached_is_enough(tmp_path: Path, choose: Callable[..., ChosenEngine]) -> None:
    """A bar below what the wrong network reaches lets it through: so it is the bar that decides."""
    assert choose(write(tmp_path, {"int8": WRONG}, agreement=0.1)).engine.precision == "int8"
    assert choose(write(tmp_path, {"int8": WRONG}, agreement=0.9)).engine.precision == "float32"


@pytest.mark.usefixtures("able")
def test_the_engine_runs_the_precisions_own_network(tmp_path: Path, choose: Callable[..., ChosenEngine]) -> None:
    window = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 16)).astype(np.float32)
    pack = write(tmp_path, {"int8": WRONG}, agreement=0.1)
    found = choose(pack, precision="int8").engine.run(window, lambda: False)
    np.testing.assert_allclose(found, OnnxRuntimeEngine(WRONG).run(window, lambda: False), atol=1e-5)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"precision": "bfloat16"}, "with precision bfloat16: .*the device has no instructions for it"),
        ({"precision": "int8"}, "with precision int8: .*the pack was not accepted in int8"),
        ({"engine": "onnxruntime", "precision": "int8"}, "computes in float32 only, not in int8"),
        ({"device": "gpu"}, "with device gpu: openvino: finds no gpu"),
        ({"engine": "onnxruntime", "device": "cuda"}, "engine onnxruntime, device cuda: .*no provider for cuda"),
    ],
)
def test_what_is_asked_for_and_not_possible_is_an_error_that_says_why(
    tmp_path: Path,
    choose: Callable[..., ChosenEngine],
    monkeypatch: pytest.MonkeyPatch,
    request_: dict[str, str],
    message: str,
) -> None:
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "INT8"})
    monkeypatch.setattr(candidates, "onnxruntime_devices", lambda: ("cpu",))
    with pytest.raises(EngineUnavailableError, match=message):
        choose(write(tmp_path, {"bfloat16": RIGHT}), **request_)


@pytest.mark.parametrize(
    ("engine", "module", "hint"),
    [("openvino", "openvino", "--engine onnxruntime"), ("onnxruntime", "onnxruntime", "pip install")],
)
def test_an_engine_that_is_asked_for_and_not_installed(
    tmp_path: Path,
    choose: Callable[..., ChosenEngine],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    module: str,
    hint: str,
) -> None:
    without(monkeypatch, module)
    with pytest.raises(EngineUnavailableError, match=f"cannot be run here with engine {engine}: .*{hint}"):
        choose(write_pack(tmp_path / "p"), engine=engine)


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let modules be not installed, though they were imported; the process's one core of OpenVINO stays alive."""
    monkeypatch.setattr(openvino_engine, "openvino_core", openvino_core.__wrapped__)
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_no_engine_is_installed(
    tmp_path: Path, choose: Callable[..., ChosenEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "openvino", "onnxruntime")
    with pytest.raises(EngineUnavailableError) as caught:
        choose(write_pack(tmp_path / "p"))
    for text in ("generated-x1_4 cannot be run here: ", 'pip install "openvino', 'pip install "onnxruntime'):
        assert text in str(caught.value)


def test_without_openvino_onnxruntime_is_taken(
    tmp_path: Path, choose: Callable[..., ChosenEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "openvino")
    chosen = choose(write(tmp_path))
    assert title(chosen.engine) == "onnxruntime float32 on cpu"
    assert chosen.reason == "onnxruntime float32 on cpu: exact"


def test_an_openvino_that_is_installed_and_broken_is_said(
    tmp_path: Path,
    choose: Callable[..., ChosenEngine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12 is missing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(candidates, "openvino_devices", openvino_runtime)
    chosen = choose(write_pack(tmp_path / "p"))
    assert "libtbb.so.12 is missing" in caplog.text
    assert chosen.reason.startswith(
        "onnxruntime float32 on cpu: exact; not openvino: OpenVINO is installed, but cannot"
    )


def test_an_openvino_that_does_not_load_the_network_is_left_out(
    tmp_path: Path, choose: Callable[..., ChosenEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> OpenVinoEngine:
        raise EngineError("it crashed")

    fail.name = "openvino"  # type: ignore[attr-defined]
    monkeypatch.setattr(loading, "OpenVinoEngine", fail)
    chosen = choose(write_pack(tmp_path / "p"))
    assert chosen.reason == "onnxruntime float32 on cpu: exact; not openvino float32 on cpu: it crashed"
    with pytest.raises(EngineError, match="openvino float32 on cpu: it crashed; leave --engine"):
        choose(write_pack(tmp_path / "p"), engine="openvino")


def test_when_no_engine_loads_the_network_each_is_named(tmp_path: Path, choose: Callable[..., ChosenEngine]) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        choose(write_pack(tmp_path / "p", body=b"not a network"))
    for engine in ("openvino", "onnxruntime"):
        assert f"{engine} float32 on cpu: " in str(caught.value)


def test_a_device_that_is_not_the_processor_is_checked_in_float32(
    tmp_path: Path, choose: Callable[..., ChosenEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is the processor under another name; without a probe nobody could tell that it is right."""
    claim_openvino_abilities(monkeypatch, cpu={"FP32"}, gpu={"FP32"})
    monkeypatch.setattr(selection, "_load", lambda *_: PretendedGpu(RIGHT))
    checked = choose(write(tmp_path), device="gpu")
    assert checked.reason == "openvino float32 on gpu: exact (100.00% of the probe as in float32)"
    with pytest.raises(EngineError, match="has no probe to check gpu with; take the device cpu"):
        choose(write_pack(tmp_path / "plain"), device="gpu")
    monkeypatch.setattr(selection, "_load", lambda *_: PretendedGpu(WRONG))
    with pytest.raises(EngineError, match=r"99\.80% are needed"):
        choose(write_reduced_pack(tmp_path / "other", base=manifest(version="1.0.1")), device="gpu")


class PretendedGpu(OnnxRuntimeEngine):
    """A graphics card."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.name, self.device = "openvino", "gpu"  # type: ignore[misc]


@pytest.mark.usefixtures("able")
def test_a_check_is_made_once_for_a_machine_and_a_pack(
    tmp_path: Path, choose: Callable[..., ChosenEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Precision] = []
    run = OpenVinoEngine.run

    def spy(self: OpenVinoEngine, *arguments: Any) -> Any:
        checked.append(self.precision)
        return run(self, *arguments)

    monkeypatch.setattr(OpenVinoEngine, "run", spy)
    pack = write(tmp_path)
    first, second = choose(pack), choose(pack)
    assert checked == ["int8"]
    assert first.reason == second.reason
    monkeypatch.setattr(selection, "device_name", lambda *_: "another processor")
    choose(pack)
    assert checked == ["int8"] * 2
    monkeypatch.setattr(loading, "openvino_version", lambda: "2099.1")
    choose(pack)
    assert checked == ["int8"] * 3
    choose(write_reduced_pack(tmp_path / "newer", base=manifest(version="1.0.1")))
    assert checked == ["int8"] * 4


@pytest.mark.parametrize(
    ("names", "checks"),
    [(("Arc A770, 32.0", "Arc A770, 32.0"), 1), (("Arc A770, 32.0", "Arc A770, 33.0"), 2), ((None, None), 2)],
    ids=["the same", "another driver", "unknown"],
)
def test_a_check_of_a_graphics_card_is_remembered_for_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str | None, str | None], checks: int
) -> None:
    pack, runs = write(tmp_path), list[int]()

    class Card(OnnxRuntimeEngine):
        """An engine that says it computes on a graphics card."""

        def run(self, windows: Any, cancelled: Any) -> Any:
            runs.append(len(windows))
            return super().run(windows, cancelled)

    card = Card(pack.body())
    card.device = "gpu"
    candidate = Candidate(engine="openvino", device="gpu", precision="float32", reason="")
    for name in names:
        monkeypatch.setattr("KDSegmentatorLib.engines.loading.openvino_device_name", lambda _, name=name: name)
        selection._checked(candidate, card, pack, tmp_path / "cache", lambda: False)
    assert len(runs) == checks


@pytest.mark.usefixtures("able")
def test_a_check_can_be_cancelled(tmp_path: Path) -> None:
    body = slow_body()
    pack = write(tmp_path, {"int8": body})
    with pytest.raises(CancelledError):
        choose_engine(pack, cache=tmp_path / "cache", cancelled=lambda: True)


def slow_body() -> bytes:
    """Return a network that takes an engine long enough to ask whether to go on."""
    return convolution_body(features=64, repeats=60)


def test_too_little_memory_is_said_as_such(
    tmp_path: Path, choose: Callable[..., ChosenEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Engine:
        raise InsufficientMemoryError("there is not enough memory to load the network")

    monkeypatch.setattr(selection, "_load", fail)
    with pytest.raises(InsufficientMemoryError):
        choose(write_pack(tmp_path / "p"))


def test_a_damaged_network_file_is_the_packs_fault_not_the_engines(
    tmp_path: Path, choose: Callable[..., ChosenEngine]
) -> None:
    pack = write_pack(tmp_path / "p")
    body = pack.folder / "body.onnx"
    content = bytearray(body.read_bytes())
    content[50] ^= 1
    body.write_bytes(content)
    with pytest.raises(PackError, match="not the file that the manifest lists"):
        choose(pack)


def test_the_compiled_network_goes_into_the_cache(tmp_path: Path, choose: Callable[..., ChosenEngine]) -> None:
    choose(write_pack(tmp_path / "p"), engine="openvino")
    assert [path.suffix for path in (tmp_path / "cache" / "compiled").rglob("*") if path.is_file()].count(".blob") == 1


def test_without_a_cache_folder_the_users_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSEGMENTATOR_CACHE", str(tmp_path / "mine"))
    choose_engine(write_pack(tmp_path / "p"), RunOptions(engine="openvino"))
    assert (tmp_path / "mine" / "compiled").is_dir()


@pytest.mark.parametrize(
    ("asked", "usable", "machine", "expected"),
    [(3, 8, 8, 3), (16, 2, 8, 16), (None, 2, 8, 2), (None, 8, 8, None), (None, 4, None, None)],
    ids=["asked", "asked beyond the limit", "limit of a container", "whole machine", "unknown machine"],
)
def test_threads_of_an_engine(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, usable: int, machine: int | None, expected: int | None
) -> None:
    monkeypatch.setattr(loading, "usable_cores", lambda: usable)
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    assert engine_threads(asked) == expected


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_threads_reach_the_engine(
    tmp_path: Path, choose: Callable[..., ChosenEngine], monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    given: list[int | None] = []
    kind = {"openvino": OpenVinoEngine, "onnxruntime": OnnxRuntimeEngine}[engine]
    make = kind.__init__

    def spy(self: Any, *arguments: Any, threads: int | None = None, **named: Any) -> None:
        given.append(threads)
        make(self, *arguments, threads=threads, **named)

    monkeypatch.setattr(kind, "__init__", spy)
    choose(write_pack(tmp_path / "p"), engine=engine, threads=1)
    assert given == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="only on Windows, macOS: there is no limit of address space")
def test_a_limit_of_address_space_that_libraries_cannot_be_loaded_in_is_an_error_and_no_hang() -> None:
    code = (
        "import resource\n"
        "from KDSegmentatorLib import Segmenter\n"
        "resource.setrlimit(resource.RLIMIT_AS, (600_000_000, 600_000_000))\n"
        "Segmenter('hippocampus')"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert finished.returncode == 1
    assert "InsufficientMemoryError" in finished.stderr
    assert "Raise the limit (ulimit -v)" in finished.stderr

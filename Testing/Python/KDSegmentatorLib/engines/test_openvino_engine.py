from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("openvino", reason="needs OpenVINO")
from KDSegmentatorLib.engines import openvino_engine
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine, openvino_devices, openvino_version
from KDSegmentatorLib.errors import CancelledError, EngineError, EngineUnavailableError, InsufficientMemoryError
from KDSegmentatorLib.packs.manifest import Precision
from support.generated_packs import FEATURES, convolution_body

EDGE = 12
PATCH = (EDGE, EDGE + 2, EDGE - 4)
BODY = convolution_body(features=FEATURES, repeats=2)


def windows(count: int = 1, patch: tuple[int, int, int] = PATCH, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 1, *patch)).astype(np.float32)


def never() -> bool:
    return False


def expected(batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return OnnxRuntimeEngine(BODY).run(batch, never)


def test_this_machine_has_a_processor() -> None:
    assert "FP32" in openvino_devices()["cpu"]
    assert openvino_version()[0].isdigit()


def test_the_features_are_those_of_onnxruntime() -> None:
    engine = OpenVinoEngine(BODY, patch_size=PATCH)
    features = engine.run(windows(), never)
    assert features.shape == (1, FEATURES, *PATCH)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected(windows()), atol=1e-5)
    assert (engine.name, engine.device, engine.precision) == ("openvino", "cpu", "float32")


def test_a_batch_is_run_window_by_window() -> None:
    np.testing.assert_allclose(
        OpenVinoEngine(BODY, patch_size=PATCH).run(windows(3), never), expected(windows(3)), atol=1e-5
    )


def test_channels_that_the_network_does_not_have() -> None:
    with pytest.raises(EngineError, match="does not load the pack's network"):
        OpenVinoEngine(BODY, patch_size=PATCH, channels=2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_every_precision_gives_the_features_but_for_its_rounding(precision: Precision) -> None:
    """Without instructions for bfloat16 OpenVINO computes in float32 when it is asked for it."""
    engine = OpenVinoEngine(BODY, patch_size=PATCH, precision=precision)
    assert engine.precision == precision
    np.testing.assert_allclose(engine.run(windows(), never), expected(windows()), atol=0.05)


def test_bfloat16_is_really_computed_in_where_the_processor_has_it() -> None:
    """Eight bits of a number are left; without the instructions it may be float32, so that nobody may ask for it."""
    exact, rounded = (
        OpenVinoEngine(BODY, patch_size=PATCH, precision=precision).run(windows(), never).copy()
        for precision in ("float32", "bfloat16")
    )
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert error < 0.05
    if "BF16" in openvino_devices()["cpu"]:
        assert error > 1e-4


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_result(threads: int) -> None:
    np.testing.assert_array_equal(
        OpenVinoEngine(BODY, patch_size=PATCH, threads=threads).run(windows(), never),
        OpenVinoEngine(BODY, patch_size=PATCH).run(windows(), never),
    )


def test_the_number_of_threads_reaches_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    given = compile_settings(monkeypatch)
    OpenVinoEngine(BODY, patch_size=PATCH, threads=1)
    OpenVinoEngine(BODY, patch_size=PATCH)
    assert given[0]["INFERENCE_NUM_THREADS"] == 1
    assert "INFERENCE_NUM_THREADS" not in given[1]


def test_threads_share_an_engine_and_features_are_the_callers_own() -> None:
    engine = OpenVinoEngine(BODY, patch_size=PATCH)
    batches = [windows(seed=seed) for seed in range(4)]
    first = engine.run(batches[0], never)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda window: engine.run(window, never), batches * 5))
    for number, features in enumerate(found):
        np.testing.assert_allclose(features, expected(batches[number % 4]), atol=1e-4)
    np.testing.assert_array_equal(first, found[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_engine_of_another_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = (OpenVinoEngine(BODY, patch_size=PATCH), OnnxRuntimeEngine(BODY))
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    for engine in engines:
        with pytest.raises(EngineError, match=r"another process .*spawn"):
            engine.run(windows(), never)


def test_the_input_is_not_changed_and_can_be_used_again() -> None:
    engine = OpenVinoEngine(BODY, patch_size=PATCH)
    window = windows()
    first = engine.run(window, never).copy()
    np.testing.assert_array_equal(window, windows())
    engine.run(windows(seed=1), never)
    np.testing.assert_array_equal(engine.run(window, never), first)


def test_the_features_outlive_the_engine_and_the_input() -> None:
    engine = OpenVinoEngine(BODY, patch_size=PATCH)
    features = engine.run(windows(), never)
    del engine
    gc.collect()
    np.testing.assert_allclose(features, expected(windows()), atol=1e-5)


def test_two_engines_at_a_time() -> None:
    engines = [OpenVinoEngine(BODY, patch_size=PATCH) for _ in range(2)]
    batches = [windows(8, seed=seed) for seed in range(2)]
    found: dict[int, npt.NDArray[np.float32]] = {}

    def work(number: int) -> None:
        found[number] = engines[number].run(batches[number], never)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        np.testing.assert_allclose(found[number], expected(batches[number]), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8, 8), (1, 2, *PATCH), (1, 1, *PATCH[::-1])])
def test_a_window_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"windows of shape \(1, 1, 12, 14, 8\), got "):
        OpenVinoEngine(BODY, patch_size=PATCH).run(np.zeros(shape, np.float32), never)


def test_a_run_is_broken_off_in_the_middle_and_the_engine_can_be_used_after() -> None:
    patch = (64, 64, 64)
    engine = OpenVinoEngine(convolution_body(features=32, repeats=12), patch_size=patch)
    window = windows(patch=patch)
    start = time.process_time()
    first = engine.run(window, never).copy()
    whole = time.process_time() - start

    start = time.process_time()
    with pytest.raises(CancelledError):
        engine.run(window, lambda: True)
    # processor time, which a busy machine does not stretch
    assert time.process_time() - start < whole / 2
    np.testing.assert_array_equal(engine.run(window, never), first)


def test_ctrl_c_ends_the_computation_too() -> None:
    """Whatever ``cancelled`` raises: the window's memory goes away with the caller, so nothing may read it any more."""
    patch = (64, 64, 64)
    engine = OpenVinoEngine(convolution_body(features=32, repeats=12), patch_size=patch)

    def interrupt() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(windows(patch=patch), interrupt)
    assert np.isfinite(engine.run(windows(patch=patch), never)).all()


def test_bytes_that_are_no_network() -> None:
    with pytest.raises(EngineError, match="--engine onnxruntime, and check the pack with 'kdseg packs verify'"):
        OpenVinoEngine(b"not an ONNX file", patch_size=PATCH)


@pytest.mark.parametrize("device", ["npu", "cuda", "tpu"])
def test_a_device_that_is_not_there_is_an_error(device: str) -> None:
    if device in openvino_devices():
        pytest.skip("only on machines without a GPU or an NPU")
    with pytest.raises(EngineUnavailableError, match=f"finds no {device} here; it finds: .*CPU"):
        OpenVinoEngine(BODY, patch_size=PATCH, device=device)


class FailingRequest:
    """Stands for a compiled network that fails on every window."""

    def __init__(self, message: str) -> None:
        self._message = message

    def get_output_tensor(self) -> npt.NDArray[np.float32]:
        return np.zeros((1, FEATURES, *PATCH), np.float32)

    def set_output_tensor(self, _: Any) -> None:
        """Would write there."""

    def start_async(self, *_: Any, **__: Any) -> None:
        raise RuntimeError(f"Exception from src/inference/src/cpp/infer_request.cpp:245:\n{self._message}\n")

    def cancel(self) -> None:
        raise RuntimeError("nothing to cancel")


class FakeCore:
    """OpenVINO that compiles with a function of ours; the rest is real."""

    def __init__(self, compile_model: Callable[..., Any]) -> None:
        self._core = openvino_engine.openvino_core()
        self.compile_model = compile_model
        self.available_devices = self._core.available_devices

    def read_model(self, body: bytes) -> Any:
        return self._core.read_model(body)


def compile_settings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what networks are compiled with, as they are compiled."""
    core = openvino_engine.openvino_core()
    given: list[dict[str, Any]] = []

    def compile_model(model: Any, device: str, settings: dict[str, Any]) -> Any:
        given.append(settings)
        return core.compile_model(model, device, settings)

    fake = FakeCore(compile_model)
    monkeypatch.setattr(openvino_engine, "openvino_core", lambda: fake)
    return given


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ("std::bad_alloc", InsufficientMemoryError, "not enough memory for a window of"),
        ("[CPU] could not allocate memory", InsufficientMemoryError, "not enough memory for a window of"),
        ("the kernel broke", EngineError, "OpenVINO failed on a window of shape .*: the kernel broke$"),
    ],
)
def test_a_run_that_fails(monkeypatch: pytest.MonkeyPatch, message: str, kind: type[Exception], text: str) -> None:
    class Compiled:
        def create_infer_request(self) -> FailingRequest:
            return FailingRequest(message)

    fake = FakeCore(lambda *_: Compiled())
    monkeypatch.setattr(openvino_engine, "openvino_core", lambda: fake)
    with pytest.raises(kind, match=text):
        OpenVinoEngine(BODY, patch_size=PATCH).run(windows(), never)


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ("std::bad_alloc", InsufficientMemoryError, "not enough memory to load the network"),
        ("no such operator", EngineError, "does not load the pack's network: no such operator"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_a_network_that_does_not_compile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, message: str, kind: type[Exception], text: str, cached: bool
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(message)

    fake = FakeCore(fail)
    monkeypatch.setattr(openvino_engine, "openvino_core", lambda: fake)
    with pytest.raises(kind, match=text):
        OpenVinoEngine(BODY, patch_size=PATCH, cache=tmp_path / "cache" if cached else None)


_WITHIN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine
from KDSegmentatorLib.errors import InsufficientMemoryError
body, patch = Path(sys.argv[1]).read_bytes(), (96, 96, 96)
OpenVinoEngine(body, patch_size=(8, 8, 8))  # threads and libraries are there
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (100 << 20),) * 2)
try:
    OpenVinoEngine(body, patch_size=patch).run(np.zeros((1, 1, *patch), np.float32), lambda: False)
except InsufficientMemoryError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux a process can be given little memory")
def test_too_little_memory(tmp_path: Path) -> None:
    """The features of one layer take 113 MB, and 100 MB are there."""
    body = tmp_path / "body.onnx"
    body.write_bytes(convolution_body(features=32, repeats=3))
    finished = subprocess.run(
        [sys.executable, "-c", _WITHIN_LITTLE_MEMORY, str(body)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("there is not enough memory")


def stored(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_the_compiled_network_is_stored_and_taken_again(tmp_path: Path) -> None:
    cache = tmp_path / "a" / "cache"
    first = OpenVinoEngine(BODY, patch_size=PATCH, cache=cache).run(windows(), never).copy()
    (file,) = stored(cache)
    before = file.stat()
    np.testing.assert_array_equal(OpenVinoEngine(BODY, patch_size=PATCH, cache=cache).run(windows(), never), first)
    assert stored(cache) == [file]
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_network_is_not_taken_for_the_stored_one(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    OpenVinoEngine(convolution_body(seed=5, repeats=2), patch_size=PATCH, cache=cache)
    for _ in range(2):
        found = OpenVinoEngine(BODY, patch_size=PATCH, cache=cache).run(windows(), never)
        np.testing.assert_allclose(found, expected(windows()), atol=1e-5)
        assert len(stored(cache)) == 2


def _changed(content: bytes, at: float) -> bytes:
    changed = bytearray(content)
    first = int(at * len(content))
    for place in range(first, first + 8):
        changed[place] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="half"),
        pytest.param(lambda content: bytes(len(content)), id="zeros"),
        pytest.param(lambda content: np.random.default_rng(0).bytes(len(content)), id="noise"),
        *(pytest.param(lambda content, at=at: _changed(content, at), id=f"changed at {at}") for at in (0.0, 0.2, 0.6)),
        pytest.param(lambda content: content + b"more", id="longer"),
    ],
)
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """OpenVINO itself would take changed weights from it without a word."""
    cache = tmp_path / "cache"
    OpenVinoEngine(BODY, patch_size=PATCH, cache=cache)
    (file,) = stored(cache)
    intact = file.read_bytes()
    file.write_bytes(damage(intact))
    for _ in range(2):
        found = OpenVinoEngine(BODY, patch_size=PATCH, cache=cache).run(windows(), never)
        np.testing.assert_allclose(found, expected(windows()), atol=1e-5)
        assert [path.stat().st_size for path in stored(cache)] == [len(intact)]


def test_a_cache_that_cannot_be_made_does_not_stop_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    found = OpenVinoEngine(BODY, patch_size=PATCH, cache=tmp_path / "file" / "cache").run(windows(), never)
    np.testing.assert_allclose(found, expected(windows()), atol=1e-5)
    assert stored(tmp_path) == [tmp_path / "file"]


def test_a_cache_that_fails_while_it_is_written_does_not_stop_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    core = openvino_engine.openvino_core()

    def compile_model(model: Any, device: str, settings: dict[str, Any]) -> Any:
        if "CACHE_DIR" in settings:
            raise RuntimeError("No space left on device")
        return core.compile_model(model, device, settings)

    fake = FakeCore(compile_model)
    monkeypatch.setattr(openvino_engine, "openvino_core", lambda: fake)
    found = OpenVinoEngine(BODY, patch_size=PATCH, cache=tmp_path / "cache").run(windows(), never)
    np.testing.assert_allclose(found, expected(windows()), atol=1e-5)

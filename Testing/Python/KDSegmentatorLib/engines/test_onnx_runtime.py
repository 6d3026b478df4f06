from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.engines import onnx_runtime
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.errors import CancelledError, EngineError, EngineUnavailableError
from support.generated_packs import FEATURES, convolution_body


def windows(count: int = 1, edge: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 1, edge, edge, edge)).astype(np.float32)


def never() -> bool:
    return False


def test_features_equal_a_convolution_by_hand() -> None:
    body = convolution_body(features=1)
    import onnx

    kernel = onnx.numpy_helper.to_array(onnx.load_from_string(body).graph.initializer[0])[0, 0]
    window = windows()
    features = OnnxRuntimeEngine(body).run(window, never)
    expected = (kernel * window[0, 0, 2:5, 3:6, 1:4]).sum()
    expected = expected if expected > 0 else 0.2 * expected
    assert features[0, 0, 3, 4, 2] == pytest.approx(expected, abs=1e-5)


def test_batches() -> None:
    engine = OnnxRuntimeEngine(convolution_body())
    batch = windows(3)
    together = engine.run(batch, never)
    assert together.shape == (3, FEATURES, 8, 8, 8)
    np.testing.assert_allclose(together[1:2], engine.run(batch[1:2], never), atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_result(threads: int) -> None:
    body = convolution_body()
    np.testing.assert_array_equal(
        OnnxRuntimeEngine(body, threads=threads).run(windows(), never), OnnxRuntimeEngine(body).run(windows(), never)
    )


def test_cancel_before_and_use_after() -> None:
    engine = OnnxRuntimeEngine(convolution_body(features=16, repeats=8))
    stop = threading.Event()
    stop.set()
    with pytest.raises(CancelledError):
        engine.run(windows(edge=64), stop.is_set)
    assert np.isfinite(engine.run(windows(), never)).all()


def test_bytes_that_are_no_network() -> None:
    with pytest.raises(EngineError, match="kdseg packs verify"):
        OnnxRuntimeEngine(b"not an ONNX file")


def test_a_window_of_the_wrong_shape() -> None:
    with pytest.raises(EngineError, match="window of shape"):
        OnnxRuntimeEngine(convolution_body()).run(np.zeros((1, 2, 8, 8, 8), np.float32), never)


def test_without_onnxruntime_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailableError, match="pip install"):
        OnnxRuntimeEngine(convolution_body())


def test_a_device_without_a_provider_is_an_error() -> None:
    with pytest.raises(EngineUnavailableError, match=r"no provider for 'tpu'; installed are: .*cpu"):
        OnnxRuntimeEngine(convolution_body(), device="tpu")


def test_a_device_that_would_leave_the_work_to_the_processor_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CoreML or DirectML without a kernel for 3-D convolutions: a provider that is installed and takes no node."""
    import onnxruntime

    idle = "AzureExecutionProvider"
    if idle not in onnxruntime.get_available_providers():
        pytest.skip("this build of onnxruntime has no provider that takes no node")
    monkeypatch.setitem(onnx_runtime._PROVIDERS, "coreml", (idle, {}))
    with pytest.raises(EngineError, match=f"{idle} cannot compute the whole network on coreml.*take the device cpu"):
        OnnxRuntimeEngine(convolution_body(), device="coreml")


def test_a_library_that_does_not_load_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('DLL load failed: vcruntime140_1.dll')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EngineUnavailableError, match=r"is installed, but cannot be loaded \(DLL load failed.*openvino"):
        OnnxRuntimeEngine(convolution_body())

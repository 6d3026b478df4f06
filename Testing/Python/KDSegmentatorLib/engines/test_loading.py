from __future__ import annotations

from types import SimpleNamespace

import pytest

from KDSegmentatorLib.engines import onnx_runtime, openvino_engine
from KDSegmentatorLib.engines.loading import device_name
from KDSegmentatorLib.machine.hardware import processor_name

pytest.importorskip("onnxruntime", reason="needs onnxruntime")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_processor_has_the_name_that_the_system_gives(engine: str) -> None:
    assert device_name(engine, "cpu") == processor_name()


class Core:
    """Knows some properties of its devices."""

    def __init__(self, known: dict[tuple[str, str], str]) -> None:
        self._known = known

    def get_property(self, device: str, name: str) -> str:
        try:
            return self._known[device, name]
        except KeyError:
            raise RuntimeError(f"unsupported property {name}") from None


def test_openvino_tells_the_card_and_the_npus_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        ("GPU", "FULL_DEVICE_NAME"): "Intel(R) Arc(TM) A770 Graphics (dGPU)",
        ("GPU", "DEVICE_ARCHITECTURE"): "GPU: vendor=0x8086 arch=v12.55.8",
        ("NPU", "FULL_DEVICE_NAME"): "Intel(R) AI Boost",
        ("NPU", "NPU_DRIVER_VERSION"): "1688",
    }
    monkeypatch.setattr(openvino_engine, "openvino_core", lambda: Core(known))
    card = device_name("openvino", "gpu")
    assert card == "Intel(R) Arc(TM) A770 Graphics (dGPU) GPU: vendor=0x8086 arch=v12.55.8"
    assert device_name("openvino", "npu") == "Intel(R) AI Boost 1688"
    monkeypatch.setattr(openvino_engine, "openvino_core", lambda: Core({}))
    assert device_name("openvino", "gpu") is None


def test_the_name_that_openvino_gives_here() -> None:
    """What it tells of the processor shows that the properties are asked for as it wants it."""
    openvino = pytest.importorskip("openvino")
    assert openvino.Core().get_property("CPU", "FULL_DEVICE_NAME") in str(openvino_engine.openvino_device_name("cpu"))


def test_onnxruntime_tells_the_card_of_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    def card(number: int) -> SimpleNamespace:
        hardware = SimpleNamespace(vendor="NVIDIA", device_id=number, metadata={"LUID": "7"})
        return SimpleNamespace(ep_name="DmlExecutionProvider", ep_metadata={"version": "1.15"}, device=hardware)

    def name(*devices: SimpleNamespace) -> str | None:
        runtime = SimpleNamespace(get_ep_devices=lambda: list(devices))
        monkeypatch.setattr(onnx_runtime, "_onnxruntime", lambda: runtime)
        return device_name("onnxruntime", "directml")

    assert name(card(0x2684)) == "NVIDIA 2684 [('LUID', '7')] [('version', '1.15')]"
    assert name(card(0x2684)) != name(card(0x2704))
    assert name() is None


def test_a_card_that_onnxruntime_knows_nothing_of() -> None:
    """Asked of the library that is installed."""
    assert onnx_runtime.onnxruntime_device_name("cuda") is None or "cuda" in onnx_runtime.onnxruntime_devices()
    assert onnx_runtime.onnxruntime_device_name("cpu")

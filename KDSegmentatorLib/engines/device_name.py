"""What an engine computes on, to keep what was found out with one device apart from another's."""

from __future__ import annotations

from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine, onnxruntime_device_name
from KDSegmentatorLib.engines.openvino_engine import openvino_device_name
from KDSegmentatorLib.machine.processor import processor_name


def device_name(engine: str, device: str) -> str | None:
    """Return a device's name, with its driver as far as the engine tells; None if it does not tell which one it is.

    Args:
        engine: ``openvino`` or ``onnxruntime``.
        device: ``cpu``, ``cuda``, ...

    Raises:
        EngineUnavailableError: the engine is not installed.
    """
    if device == "cpu":
        return processor_name()
    return onnxruntime_device_name(device) if engine == OnnxRuntimeEngine.name else openvino_device_name(device)

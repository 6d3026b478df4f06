"""What there is to compute with: the hardware, and what the installed engines find on it."""

from __future__ import annotations

from dataclasses import dataclass

from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine, onnxruntime_devices, onnxruntime_version
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine, openvino_devices, openvino_version
from KDSegmentatorLib.errors import EngineUnavailableError
from KDSegmentatorLib.machine.hardware import Hardware, detect_hardware
from KDSegmentatorLib.machine.processor import processor_name


@dataclass(frozen=True, kw_only=True)
class FoundEngine:
    """An inference engine.

    Attributes:
        name: ``openvino``, ``onnxruntime``.
        version: of the installed package; None if it cannot be used.
        devices: what it can compute on (``cpu``, ``cuda``, ``gpu``, ...) to its abilities there, as far as the engine
            tells them (``BF16``, ``FP32``, ``INT8``, ...).
        problem: why it cannot be used; None if it can.
    """

    name: str
    version: str | None
    devices: dict[str, tuple[str, ...]]
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine, as far as it matters for segmenting.

    Attributes:
        processor: its name.
        hardware: cores, instructions, memory.
        engines: all that the library knows, also those that are not installed.
    """

    processor: str
    hardware: Hardware
    engines: tuple[FoundEngine, ...]


def probe_machine() -> Machine:
    """Return what there is; never fails."""
    return Machine(
        processor=processor_name(), hardware=detect_hardware(), engines=(_find_openvino(), _find_onnxruntime())
    )


def _find_openvino() -> FoundEngine:
    name = OpenVinoEngine.name
    try:
        devices = {device: tuple(sorted(abilities)) for device, abilities in openvino_devices().items()}
        return FoundEngine(name=name, version=openvino_version(), devices=devices)
    except EngineUnavailableError as error:
        return FoundEngine(name=name, version=None, devices={}, problem=str(error))


def _find_onnxruntime() -> FoundEngine:
    name = OnnxRuntimeEngine.name
    try:
        # it computes in float32 whatever the device could do
        devices: dict[str, tuple[str, ...]] = dict.fromkeys(onnxruntime_devices(), ("FP32",))
        return FoundEngine(name=name, version=onnxruntime_version(), devices=devices)
    except EngineUnavailableError as error:
        return FoundEngine(name=name, version=None, devices={}, problem=str(error))

"""An engine by its name: the only place where one is made, and what it computes on."""

from __future__ import annotations

import os
from pathlib import Path

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine, onnxruntime_device_name, onnxruntime_version
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine, openvino_device_name, openvino_version
from KDSegmentatorLib.machine.hardware import processor_name, usable_cores
from KDSegmentatorLib.packs.manifest import Precision


def load_engine(
    name: str,
    body: bytes,
    *,
    patch_size: tuple[int, int, int],
    precision: Precision,
    channels: int = 1,
    device: str = "cpu",
    threads: int | None = None,
    cache: Path | None = None,
) -> Engine:
    """Return an engine with a network, ready to run.

    Args:
        name: ``onnxruntime`` or ``openvino``.
        body: the network, an ONNX model.
        patch_size: (z, y, x) of a window.
        precision: number format to compute in; onnxruntime knows float32 alone.
        channels: of a window.
        device: see :class:`KDSegmentatorLib.engines.candidates.Candidate`.
        threads: as asked for; None takes what :func:`engine_threads` returns.
        cache: folder for this one compiled network, which OpenVINO fills; None compiles it every time.

    Raises:
        EngineError: the engine does not load the network.
        EngineUnavailableError: it is not installed.
        InsufficientMemoryError: the network does not fit into memory.
    """
    threads = engine_threads(threads)
    if name == OnnxRuntimeEngine.name:
        return OnnxRuntimeEngine(body, device=device, threads=threads)
    return OpenVinoEngine(
        body,
        patch_size=patch_size,
        channels=channels,
        precision=precision,
        device=device,
        threads=threads,
        cache=cache,
    )


def engine_version(name: str) -> str:
    """Return the version of an installed engine.

    Raises:
        EngineUnavailableError: it is not installed.
    """
    return onnxruntime_version() if name == OnnxRuntimeEngine.name else openvino_version()


def engine_threads(threads: int | None) -> int | None:
    """Return the threads to give to an engine: what was asked for, or a limit that it would not see itself.

    Engines count the cores of the machine, not those that a container or a batch system lets this process use.
    """
    if threads is not None:
        return threads
    usable = usable_cores()
    return usable if usable < (os.cpu_count() or 1) else None


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

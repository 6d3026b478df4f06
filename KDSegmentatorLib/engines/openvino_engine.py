"""The OpenVINO engine: Intel's runtime, on x86 and ARM processors of any maker, and on Intel's GPUs and NPUs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.compiled_cache import opened, seal
from KDSegmentatorLib.engines.engine import check_process
from KDSegmentatorLib.engines.instance_normalization import with_fused_normalization
from KDSegmentatorLib.engines.memory_failure import is_memory_failure, memory_failure
from KDSegmentatorLib.engines.openvino_runtime import openvino_core, openvino_runtime
from KDSegmentatorLib.errors import CancelledError, EngineError, EngineUnavailableError
from KDSegmentatorLib.packs.manifest import Precision

if TYPE_CHECKING:
    import openvino

_POLL_SECONDS = 0.05
_HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
_NAMES = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "NPU_DRIVER_VERSION")
_DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


def openvino_devices() -> dict[str, frozenset[str]]:
    """Return the devices that OpenVINO finds (``cpu``, ``gpu``, ``npu``) and what each can do (``BF16``, ``INT8``).

    Raises:
        EngineUnavailableError: OpenVINO is not installed.
    """
    core = openvino_core()
    found = {}
    for device, name in _DEVICES.items():
        if any(each.partition(".")[0] == name for each in core.available_devices):
            found[device] = frozenset(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
    return found


def openvino_device_name(device: str) -> str | None:
    """Return the name of a device (``gpu``, ``npu``) with its driver, as far as OpenVINO tells; None if it does not.

    Raises:
        EngineUnavailableError: OpenVINO is not installed.
    """
    core = openvino_core()
    found = []
    for name in _NAMES:
        with suppress(Exception):  # each device has properties of its own
            found.append(str(core.get_property(_DEVICES[device], name)))
    return " ".join(found) or None


def openvino_version() -> str:
    """Return the version with its build.

    Raises:
        EngineUnavailableError: OpenVINO is not installed.
    """
    return str(openvino_runtime().__version__)


class OpenVinoEngine:
    """OpenVINO on one device.

    Args:
        body: an ONNX model with one input (n, channels, z, y, x) and one output (n, features, z, y, x), in the
            precision's own version (:meth:`KDSegmentatorLib.packs.pack.StudentPack.body`).
        patch_size: voxels (z, y, x) of the windows; compiled for exactly these.
        channels: input channels.
        precision: number format to compute in.
        device: ``cpu``, ``gpu`` or ``npu``.
        threads: CPU threads; None leaves it to OpenVINO (one a physical core).
        cache: folder for this network compiled, of its own because it is read to the last byte each time; what is
            damaged there is thrown away and made anew. None for none.

    Raises:
        EngineUnavailableError: OpenVINO is not installed, or does not find the device.
        EngineError: OpenVINO does not load the model.
        InsufficientMemoryError: the model does not fit into memory.
    """

    name = "openvino"

    def __init__(
        self,
        body: bytes,
        *,
        patch_size: Sequence[int],
        channels: int = 1,
        precision: Precision = "float32",
        device: str = "cpu",
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        runtime = openvino_runtime()
        _check_first_process()
        self.device = device
        self.precision: Precision = precision
        self._shape = (1, channels, *patch_size)
        self._process = os.getpid()
        self._lock = threading.Lock()  # one request: threads take turns
        core = openvino_core()
        name = _DEVICES.get(device)
        if name is None or not any(each.partition(".")[0] == name for each in core.available_devices):
            raise EngineUnavailableError(
                f"OpenVINO {runtime.__version__} finds no {device} here; it finds: {', '.join(core.available_devices)}"
            )
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if name == "CPU":
            settings["ENABLE_CPU_PINNING"] = False  # or two runs at a time would sit on the same cores
            if threads is not None:
                settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(body)
            model.reshape(list(self._shape))
            with_fused_normalization(model)
            compiled = _compile(core, model, name, settings, cache)
            self._request = compiled.create_infer_request()
        except Exception as error:
            if is_memory_failure(error):
                raise memory_failure("to load the network") from error
            raise EngineError(
                f"OpenVINO {runtime.__version__} does not load the pack's network: {_first_line(error)}. Take "
                "--engine onnxruntime, and check the pack with 'kdseg packs verify'"
            ) from error

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        """See :class:`KDSegmentatorLib.engines.engine.Engine`; one window a call is fastest."""
        check_process(self.name, self._process)
        if windows.shape[1:] != self._shape[1:]:
            raise EngineError(f"OpenVINO was loaded for windows of shape {self._shape}, got {windows.shape}")
        while not self._lock.acquire(timeout=_POLL_SECONDS):
            if cancelled():
                raise CancelledError("cancelled; nothing was written")
        try:
            if len(windows) == 1:
                return self._run_one(windows, cancelled)
            return np.concatenate([self._run_one(window[None], cancelled) for window in windows])
        finally:
            self._lock.release()

    def _run_one(self, window: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        runtime = openvino_runtime()
        tensor = runtime.Tensor(window, shared_memory=True)
        try:
            features: npt.NDArray[np.float32] = np.empty(tuple(self._request.get_output_tensor().shape), np.float32)
            self._request.set_output_tensor(runtime.Tensor(features, shared_memory=True))
            self._features = features  # the request writes there until it gets another one
            self._request.start_async({0: tensor}, share_inputs=True)
            while not self._request.wait_for(round(1000 * _POLL_SECONDS)):
                if cancelled():
                    raise CancelledError("cancelled; nothing was written")
        except CancelledError:
            raise
        except Exception as error:
            if is_memory_failure(error):
                raise memory_failure(f"for a window of {window.shape[2:]} voxels") from error
            raise EngineError(f"OpenVINO failed on a window of shape {window.shape}: {_first_line(error)}") from error
        finally:
            self._stop()
        return features

    def _stop(self) -> None:
        """End a computation that is still going on, for whatever reason it is left: its input goes away."""
        with suppress(Exception):  # OpenVINO reports the cancelling itself as an error
            self._request.cancel()
            self._request.wait()


_first_process: int | None = None
"""Where OpenVINO's threads were started: a process forked from there waits for them for ever."""


def _check_first_process() -> None:
    global _first_process
    if _first_process is None:
        _first_process = os.getpid()
    check_process("OpenVINO", _first_process)


def _compile(
    core: openvino.Core, model: openvino.Model, device: str, settings: dict[str, Any], cache: Path | None
) -> openvino.CompiledModel:
    if cache is not None:
        with opened(cache) as usable:
            if usable:
                try:
                    compiled = core.compile_model(model, device, {**settings, "CACHE_DIR": str(cache)})
                except Exception as error:  # a full disk must not stop the work: the cache only saves time
                    if is_memory_failure(error):
                        raise
                else:
                    seal(cache)
                    return compiled
    return core.compile_model(model, device, settings)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

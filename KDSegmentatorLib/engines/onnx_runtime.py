"""The onnxruntime engine: runs everywhere, exact in float32; on GPUs where a provider is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.engine import check_process
from KDSegmentatorLib.engines.memory_failure import is_memory_failure, memory_failure
from KDSegmentatorLib.errors import CancelledError, EngineError, EngineUnavailableError
from KDSegmentatorLib.packs.manifest import Precision

_POLL_SECONDS = 0.1
_ERRORS_ONLY = 3
_NOT_INSTALLED = "onnxruntime is not installed; install it with 'pip install \"onnxruntime>=1.23\"'"

_PROVIDERS: dict[str, tuple[str, dict[str, Any]]] = {
    # TensorFloat-32 would round to ten bits where float32 was asked for
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "directml": ("DmlExecutionProvider", {}),
    "coreml": ("CoreMLExecutionProvider", {}),
    "cpu": ("CPUExecutionProvider", {}),
}
"""Device to provider and its options, fastest first."""


def onnxruntime_devices() -> tuple[str, ...]:
    """Return the devices that the installed onnxruntime should have a provider for, fastest first.

    Seen from the files of its package: it is not imported before it is to compute.

    Raises:
        EngineUnavailableError: onnxruntime is not installed.
    """
    if "onnxruntime" in sys.modules:
        return _loaded_devices()
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None:
        raise EngineUnavailableError(_NOT_INSTALLED)
    files = [
        path.name.lower() for folder in spec.submodule_search_locations or () for path in Path(folder, "capi").glob("*")
    ]
    found = {
        "cuda": any("providers_cuda" in name for name in files),
        "directml": "directml.dll" in files,
        "coreml": sys.platform == "darwin",
        "cpu": True,
    }
    return tuple(device for device in _PROVIDERS if found[device])


def _loaded_devices() -> tuple[str, ...]:
    installed = _onnxruntime().get_available_providers()
    return tuple(device for device, (provider, _) in _PROVIDERS.items() if provider in installed)


def onnxruntime_device_name(device: str) -> str | None:
    """Return what tells a provider's device from others, as far as onnxruntime knows it; None if it does not.

    Raises:
        EngineUnavailableError: onnxruntime is not installed.
    """
    found = []
    for each in _onnxruntime().get_ep_devices():
        if each.ep_name == _PROVIDERS[device][0]:
            hardware = each.device
            found.append(f"{hardware.vendor} {hardware.device_id:x} {sorted(dict(hardware.metadata).items())}")
            found.append(str(sorted(dict(each.ep_metadata).items())))
    return " ".join(found) or None


def onnxruntime_version() -> str:
    """Return the version.

    Raises:
        EngineUnavailableError: onnxruntime is not installed.
    """
    return str(_onnxruntime().__version__)


class OnnxRuntimeEngine:
    """onnxruntime on one device, float32.

    Args:
        body: an ONNX model with one input (n, channels, z, y, x) and one output (n, features, z, y, x).
        device: ``cpu``, ``cuda``, ``directml`` or ``coreml``.
        threads: threads within an operator; None leaves it to onnxruntime (one a physical core).

    Raises:
        EngineUnavailableError: onnxruntime is not installed, or has no provider for the device.
        EngineError: onnxruntime does not load the model, or would not run it on the device.
        InsufficientMemoryError: the model does not fit into memory.
    """

    name = "onnxruntime"
    precision: Precision = "float32"

    def __init__(self, body: bytes, *, device: str = "cpu", threads: int | None = None) -> None:
        onnxruntime = _onnxruntime()
        self.device = device
        self._process = os.getpid()
        if device not in _loaded_devices():
            raise EngineUnavailableError(
                f"onnxruntime {onnxruntime.__version__} has no provider for {device!r}; installed are: "
                f"{', '.join(_loaded_devices())}"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if device != "cpu":  # operators that the provider has no kernel for would run on the CPU without a word
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        onnxruntime.disable_telemetry_events()  # the Windows build has some; a clinic's machine reports to nobody
        self._new_run_options: Callable[[], Any] = onnxruntime.RunOptions
        provider = _PROVIDERS[device]
        try:
            self._session = onnxruntime.InferenceSession(body, options, providers=[provider])
        except Exception as error:  # onnxruntime's own exceptions share no base class
            if is_memory_failure(error):
                raise memory_failure("to load the network") from error
            if _leaves_work_to_the_cpu(error):
                raise EngineError(
                    f"onnxruntime's {provider[0]} cannot compute the whole network on {device}: it would leave "
                    "operators to the processor; check the driver, or take the device cpu"
                ) from error
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} does not load the pack's network: {error}. Update onnxruntime, "
                "and check the pack with 'kdseg packs verify'"
            ) from error
        if provider[0] not in self._session.get_providers():
            raise EngineError(f"onnxruntime could not start {provider[0]}; check the driver, or take the device cpu")
        self._input = self._session.get_inputs()[0].name

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        """See :class:`KDSegmentatorLib.engines.engine.Engine`.

        The network computes in a thread of its own, so that a large window can be broken off in the middle.
        """
        check_process(self.name, self._process)
        options = self._new_run_options()
        options.log_severity_level = _ERRORS_ONLY
        with ThreadPoolExecutor(max_workers=1) as executor:
            future = executor.submit(self._session.run, None, {self._input: windows}, options)
            try:
                while True:
                    try:
                        features: npt.NDArray[np.float32] = future.result(timeout=_POLL_SECONDS)[0]
                        return features
                    except (TimeoutError, FutureTimeoutError):
                        if cancelled():
                            raise CancelledError("cancelled; nothing was written") from None
            except CancelledError:
                raise
            except Exception as error:
                if is_memory_failure(error):
                    raise memory_failure(f"for a window of {windows.shape[2:]} voxels") from error
                raise EngineError(f"onnxruntime failed on a window of shape {windows.shape}: {error}") from error
            finally:
                options.terminate = True  # leaving for any reason, Ctrl-C included, ends the computation


def _leaves_work_to_the_cpu(error: BaseException) -> bool:
    """Return whether onnxruntime refused because the CPU would be needed; with that, Python's retry on it fails too."""
    return "fallback to cpu ep" in str(error).lower() or "fallback to the cpu ep" in str(error).lower()


def _onnxruntime() -> Any:
    """Import it with its telemetry off: it would look up its maker's server and write files of its own."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise EngineUnavailableError(_NOT_INSTALLED) from error
        raise EngineUnavailableError(
            f"onnxruntime is installed, but cannot be loaded ({error}). On Windows the Microsoft Visual C++ "
            "Redistributable is missing, as a rule; or install onnxruntime again, or take --engine openvino"
        ) from error
    return onnxruntime

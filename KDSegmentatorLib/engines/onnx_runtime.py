"""The onnxruntime engine on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import CancelledError, EngineError, EngineUnavailableError

if TYPE_CHECKING:
    import onnxruntime

_POLL_SECONDS = 0.1
_ERRORS_ONLY = 3


class OnnxRuntimeEngine:
    """onnxruntime's CPU provider, float32.

    Args:
        body: an ONNX model with one input (n, channels, z, y, x) and one output (n, features, z, y, x).
        threads: threads within an operator; None leaves it to onnxruntime (one a physical core).

    Raises:
        EngineUnavailableError: onnxruntime is not installed.
        EngineError: onnxruntime does not load the model.
    """

    name = "onnxruntime"
    precision = "float32"

    def __init__(self, body: bytes, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailableError(
                "onnxruntime is not installed; install it with 'pip install \"onnxruntime>=1.23\"'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        onnxruntime.disable_telemetry_events()  # the Windows build has some; a clinic's machine reports to nobody
        self._new_run_options: Callable[[], onnxruntime.RunOptions] = onnxruntime.RunOptions
        try:
            self._session = onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} does not load the pack's network: {error}. Update onnxruntime, "
                "and check the pack with 'kdseg packs verify'"
            ) from error
        self._input = self._session.get_inputs()[0].name

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        """See :class:`KDSegmentatorLib.engines.engine.Engine`.

        The network computes in a thread of its own, so that a large window can be broken off in the middle.
        """
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
            except MemoryError:
                raise
            except Exception as error:
                raise EngineError(f"onnxruntime failed on a window of shape {windows.shape}: {error}") from error
            finally:
                options.terminate = True  # leaving for any reason, Ctrl-C included, ends the computation

"""Importing OpenVINO without telling anybody.

``import openvino`` also imports its model conversion tools, and those report the import to a server on the internet,
with no question asked. A clinic's machine reports to nobody: the tools, which nothing here needs, are kept out.
OpenVINO takes their absence for a smaller installation. It starts in half the time without them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from typing import Any, cast

from KDSegmentatorLib.errors import EngineUnavailableError

_REPORTING_TOOLS = "openvino.tools.ovc"


def openvino_runtime() -> Any:
    """Return the module ``openvino``.

    Raises:
        EngineUnavailableError: it is not installed, or does not start here.
    """
    modules = cast("dict[str, Any]", sys.modules)
    already = modules.get("openvino")
    if already is not None:
        return already
    kept_out = _REPORTING_TOOLS not in modules
    if kept_out:
        modules[_REPORTING_TOOLS] = None  # Python's way to say: there is no such module
    try:
        return importlib.import_module("openvino")
    except (ImportError, OSError, RuntimeError) as error:
        if importlib.util.find_spec("openvino") is not None:  # a missing or unfitting library of the system
            raise EngineUnavailableError(
                f"OpenVINO is installed, but cannot be loaded ({error}); install it again with 'pip install "
                "--force-reinstall openvino', or take --engine onnxruntime"
            ) from error
        raise EngineUnavailableError(
            f"OpenVINO cannot be used ({error}); install it with 'pip install \"openvino>=2025.4\"', or take "
            "--engine onnxruntime"
        ) from error
    finally:
        if kept_out:
            modules.pop(_REPORTING_TOOLS, None)


@cache
def openvino_core() -> Any:
    """Return the one ``openvino.Core`` of this process.

    Its plug-in for processors gives the calling thread a stack for signals, and takes it back when it goes. With
    several of them, gone in another order than they came, the thread is left with a stack that was freed, and the next
    Ctrl-C ends the process with a segmentation fault (OpenVINO 2026.4). So there is one, and it stays.

    Raises:
        EngineUnavailableError: OpenVINO is not installed, or does not start here.
    """
    return openvino_runtime().Core()

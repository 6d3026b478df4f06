from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from KDSegmentatorLib.engines.openvino_runtime import openvino_runtime
from KDSegmentatorLib.errors import EngineUnavailableError
from support.generated_packs import convolution_body

_IMPORT_IN_A_NEW_PROCESS = """
import socket, sys
def refuse(*arguments): raise AssertionError("a connection was tried")
socket.socket.connect = socket.getaddrinfo = refuse
from KDSegmentatorLib.engines.openvino_runtime import openvino_runtime
runtime = openvino_runtime()
assert runtime.Core().available_devices
reporting = [name for name in sys.modules if "telemetry" in name or name.startswith("openvino.tools.ovc")]
assert not reporting, reporting
assert openvino_runtime() is runtime is sys.modules["openvino"]
"""


def test_importing_openvino_reports_to_nobody() -> None:
    pytest.importorskip("openvino")
    finished = subprocess.run([sys.executable, "-c", _IMPORT_IN_A_NEW_PROCESS], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_a_missing_openvino_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install .*openvino.* --engine onnxruntime"):
        openvino_runtime()


_ENGINES_COME_AND_GO = """
import gc, signal, sys
from pathlib import Path
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine, openvino_devices
body = Path(sys.argv[1]).read_bytes()
openvino_devices()
first = OpenVinoEngine(body, patch_size=(8, 8, 8))
openvino_devices()
second = OpenVinoEngine(body, patch_size=(8, 8, 8))
for engine in ("first", "second"):
    del globals()[engine]
    gc.collect()
    openvino_devices()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_engines_came_and_went(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    body = tmp_path / "body.onnx"
    body.write_bytes(convolution_body())
    finished = subprocess.run([sys.executable, "-c", _ENGINES_COME_AND_GO, str(body)], capture_output=True, text=True)
    assert (finished.returncode, finished.stdout.strip()) == (0, "interrupted"), finished.stderr

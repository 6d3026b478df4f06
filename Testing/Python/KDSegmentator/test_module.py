"""The module itself, its boxes and its self-tests, in the application in miniature (support/slicer_application)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
if importlib.util.find_spec("PySide6") is None:  # not imported here: it changes how Python imports
    pytest.skip("needs Qt: pip install PySide6-Essentials", allow_module_level=True)
pytest.importorskip("onnxruntime", reason="needs onnxruntime")

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("program", ["check_set_up", "run_self_tests", "check_panel"])
def test_the_panel_in_the_application_in_miniature(program: str) -> None:
    """In a process of its own: it puts things into ``sys.modules`` that other tests must not see."""
    paths = [str(ROOT / "Testing" / "Python"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", f"support.slicer_application.{program}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths).rstrip(os.pathsep), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

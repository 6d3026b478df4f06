"""The panel's logic on a real scene: what it touches of MRML is slicer-core's, what is around it is injected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from support.mrml_scene import MrmlScene, empty_scene


@pytest.fixture
def mrml(tmp_path: Path) -> Iterator[MrmlScene]:
    """Return an empty scene; a VTK error or warning, which raises nothing, fails the test."""
    with empty_scene(tmp_path / "vtk.log") as scene:
        yield scene

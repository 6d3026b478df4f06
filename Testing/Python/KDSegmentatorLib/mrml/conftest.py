"""Real MRML without the application: ``pip install slicer-core`` (Linux, Windows, macOS; needs no display)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mrml_scene import MrmlScene, empty_scene


@pytest.fixture
def mrml(tmp_path: Path) -> Iterator[MrmlScene]:
    """Return an empty scene; a VTK error or warning, which raises nothing, fails the test."""
    with empty_scene(tmp_path / "vtk.log") as scene:
        yield scene

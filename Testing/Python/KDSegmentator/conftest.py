"""The panel's logic on a real scene: what it touches of MRML is slicer-core's, what is around it is injected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.packs.store import PackStore
from support.mrml_scene import MrmlScene, empty_scene

if TYPE_CHECKING:
    from support.segment_box import Panel


@pytest.fixture
def mrml(tmp_path: Path) -> Iterator[MrmlScene]:
    """Return an empty scene; a VTK error or warning, which raises nothing, fails the test."""
    with empty_scene(tmp_path / "vtk.log") as scene:
        yield scene


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> PackStore:
    """Return a family of three sizes, which nobody changes."""
    from support.generated_family import build_size  # needs onnx

    folder = tmp_path_factory.mktemp("shipped")
    for size in ("x1", "x1/2", "x1/4"):
        build_size(folder / f"generated-{size.replace('/', '_')}", size)
    return PackStore(folder / "none", folder)


@pytest.fixture
def box(mrml: MrmlScene, packs: PackStore) -> Panel:
    """Return a panel with a volume, ready to segment."""
    from support.segment_box import empty_box, scan

    result = empty_box(mrml, packs)
    result.choose(volume=mrml.volume_node(scan()))
    return result

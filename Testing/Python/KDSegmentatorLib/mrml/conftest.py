"""Real MRML without the application: ``pip install slicer-core`` (Linux, Windows, macOS; needs no display).

slicer-core has neither ``slicer.mrmlScene`` nor ``slicer.app``, so that every test gets a scene of its own, with the
colour tables that the application would have put there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mrml_scene import MrmlScene


@pytest.fixture
def mrml(tmp_path: Path) -> Iterator[MrmlScene]:
    """Return an empty scene; a VTK error or warning, which raises nothing, fails the test."""
    import slicer
    import vtk

    log = tmp_path / "vtk.log"
    window = vtk.vtkFileOutputWindow()
    window.SetFileName(str(log))
    window.SetFlush(True)
    before = vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(window)
    scene = slicer.vtkMRMLScene()
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    try:
        yield MrmlScene(scene)
        colors.SetMRMLScene(None)
        scene.Clear(True)
    finally:
        vtk.vtkOutputWindow.SetInstance(before)
    complaints = log.read_text(errors="replace") if log.exists() else ""
    assert not complaints, complaints

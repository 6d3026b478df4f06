"""Surfaces in a process of their own."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vtk", reason="needs VTK: pip install slicer-core")
from KDSegmentatorLib.errors import JobError
from KDSegmentatorLib.mrml.surfaces import LabelLayer, make_meshes
from KDSegmentatorPanel.surfaces import SurfaceProcess


def layer(side: int = 12) -> LabelLayer:
    """Return two structures, and one that was not found."""
    voxels = np.zeros((side, side + 1, side + 2), np.uint8)
    voxels[2:6, 2:9, 3:9], voxels[6:10, 2:9, 3:9] = 1, 3
    to_ras = np.array([[-0.8, 0.0, 0.0, 20.0], [0.0, -1.1, 0.0, 3.0], [0.0, 0.0, 2.5, -7.0], [0.0, 0.0, 0.0, 1.0]])
    return LabelLayer(voxels, to_ras, {"Segment_1": 1, "Segment_2": 2, "é": 3}, 0.5, 0)


def test_the_process_makes_what_this_one_makes(tmp_path: Path) -> None:
    made, expected = SurfaceProcess(temporary_folder=tmp_path)([layer()]), make_meshes([layer()])
    assert made.keys() == expected.keys() == {"Segment_1", "é"}
    for each, mesh in expected.items():
        for part, wanted in zip(made[each], mesh, strict=True):
            np.testing.assert_array_equal(part, wanted)
    assert not list(tmp_path.iterdir()), "its files are gone"


@pytest.mark.parametrize("seconds", [0.05, 0.4])
def test_a_process_that_is_stopped_leaves_nothing(tmp_path: Path, seconds: float) -> None:
    """Also before it has started."""
    process = SurfaceProcess(temporary_folder=tmp_path)
    timer = threading.Timer(seconds, process.stop)
    timer.start()
    with pytest.raises(JobError):
        process([layer(150)] * 30)
    timer.join()
    assert not list(tmp_path.iterdir())

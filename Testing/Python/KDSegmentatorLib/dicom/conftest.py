from __future__ import annotations

import numpy as np
import pytest

from KDSegmentatorLib.geometry import Volume

OBLIQUE = ((0.8, -0.36, 0.48), (0.6, 0.48, -0.64), (0.0, 0.8, 0.6))


@pytest.fixture
def volume() -> Volume:
    """Return a small oblique volume with voxels of three different edges."""
    voxels = np.random.default_rng(0).integers(-1000, 2000, size=(9, 6, 7), dtype=np.int16)
    return Volume(voxels, (0.7, 0.9, 2.5), (-11.5, 20.25, 7.0), OBLIQUE)

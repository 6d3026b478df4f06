"""Real heads that PyPI packages ship, as volumes. Nothing is downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from KDSegmentatorLib import Volume, read_volume
from KDSegmentatorLib.errors import ImageReadError
from KDSegmentatorLib.geometry import matrix, vector


def load_template() -> Volume:
    """Return the MNI152 T1 template of nilearn: the average of 152 adults' brains, without skull, 1 mm, 0 to 1.

    Raises:
        ImageReadError: nilearn is not installed.
    """
    try:
        from nilearn.datasets import load_mni152_template  # slow to import
    except ModuleNotFoundError as error:
        raise ImageReadError(
            "the T1 template is part of the package nilearn, which is missing: make demo installs it, or "
            "pip install nilearn"
        ) from error

    image: Any = load_mni152_template(resolution=1)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # NIfTI is RAS, a Volume LPS
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    voxels = np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0))
    return Volume(voxels, vector(spacing), vector(affine[:3, 3]), matrix(affine[:3, :3] / spacing))


def load_average_head() -> Volume:
    """Return the T1 average of whole heads, with skull and scalp, that pydeface registers faces to.

    Raises:
        ImageReadError: pydeface is not installed.
    """
    package = importlib.util.find_spec("pydeface")  # not imported: that needs FSL's Python interface
    if package is None or package.origin is None:
        raise ImageReadError(
            "the full head is part of the package pydeface, which is missing: make demo installs it, or "
            "pip install --no-deps pydeface"
        )
    return read_volume(Path(package.origin).parent / "data" / "mean_reg2mean.nii.gz")

"""KDSegmentator: distilled students of nnU-Net teachers on an ordinary CPU, without torch.

>>> from KDSegmentatorLib import Segmenter, read_volume, write_volume
>>> segmentation = Segmenter("hippocampus", "x1/4")(read_volume("t1.nii.gz"))
>>> write_volume(segmentation.volume, "labels.nii.gz")

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.version import __version__

if TYPE_CHECKING:
    from KDSegmentatorLib.analysis.comparison import compare
    from KDSegmentatorLib.dicom.series import read_series
    from KDSegmentatorLib.errors import KDSegmentatorError
    from KDSegmentatorLib.geometry import Volume
    from KDSegmentatorLib.inference.segmentation import Segmentation
    from KDSegmentatorLib.io.images import write_volume
    from KDSegmentatorLib.options import RunOptions
    from KDSegmentatorLib.packs.store import PackStore
    from KDSegmentatorLib.scan import read_volume
    from KDSegmentatorLib.segmenter import Segmenter

__all__ = [
    "KDSegmentatorError",
    "PackStore",
    "RunOptions",
    "Segmentation",
    "Segmenter",
    "Volume",
    "__version__",
    "compare",
    "read_series",
    "read_volume",
    "write_volume",
]

_HOMES = {
    "KDSegmentatorError": "errors",
    "PackStore": "packs.store",
    "RunOptions": "options",
    "Segmentation": "inference.segmentation",
    "Segmenter": "segmenter",
    "Volume": "geometry",
    "compare": "analysis.comparison",
    "read_series": "dicom.series",
    "read_volume": "scan",
    "write_volume": "io.images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

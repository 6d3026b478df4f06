"""Pixel data of the images of a series, in the units of the scanner (HU for a CT)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from KDSegmentatorLib.dicom.headers import ImagePlane
from KDSegmentatorLib.errors import ImageReadError

_INT16 = np.iinfo(np.int16)


def check_pixels(planes: Sequence[ImagePlane]) -> None:
    """Check, from the headers, that the images have grey values.

    Raises:
        ImageReadError: one is in colour, or inverted (MONOCHROME1).
    """
    for plane in planes:
        kind = str(plane.dataset.get("PhotometricInterpretation", ""))
        if int(plane.dataset.get("SamplesPerPixel", 1)) != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
            raise ImageReadError(f"{plane.name} is in colour ({kind}), not a scan in grey values; give the scan itself")
        if kind == "MONOCHROME1":
            raise ImageReadError(
                f"{plane.name} is MONOCHROME1: its values are inverted for display, and are no measurements; export "
                "the series as MONOCHROME2"
            )


def read_images(planes: Sequence[ImagePlane], check: Callable[[], None] = lambda: None) -> npt.NDArray[Any]:
    """Return the images as one array (slice, row, column): int16 if that holds all values, else float32.

    Raises:
        ImageReadError: pixel data is missing, truncated or damaged.
    """
    shape = (len(planes), int(planes[0].dataset.Rows), int(planes[0].dataset.Columns))
    images = np.empty(shape, dtype=np.float32)
    for image, plane in zip(images, planes, strict=True):
        check()
        image[...] = _image(plane)
    whole = np.array_equal(images, np.rint(images)) and images.min() >= _INT16.min and images.max() <= _INT16.max
    return images.astype(np.int16) if whole else images


def _image(plane: ImagePlane) -> npt.NDArray[Any]:
    try:
        stored = pixel_array(plane.path, index=plane.frame if "NumberOfFrames" in plane.dataset else None)
    except Exception as error:  # decoders raise nearly everything
        raise ImageReadError(
            f"cannot read the pixels of {plane.name}: they are damaged or truncated ({error}); fetch the series again"
        ) from error
    return np.asarray(apply_modality_lut(stored, plane.dataset))

"""Pixel data of the images of a series, in the units of the scanner (HU for a CT)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID, ImplicitVRLittleEndian

from KDSegmentatorLib.dicom.decoding import DecodingRequest, check_decodable, decoded, decoded_apart
from KDSegmentatorLib.dicom.headers import ImagePlane, text, value
from KDSegmentatorLib.errors import ImageReadError

_LARGEST_INTENSITY = 1e12
_INT16 = np.iinfo(np.int16)


def check_pixels(planes: Sequence[ImagePlane]) -> None:
    """Check, from the headers, that the images have grey values, and that they can be decoded here.

    Raises:
        ImageReadError: one is in colour, inverted (MONOCHROME1), or stored in a way that is not for images.
        MissingPackageError: no decoder for its compression is installed.
    """
    for plane in planes:
        kind = text(plane.dataset, "PhotometricInterpretation")
        if value(plane.dataset, "SamplesPerPixel") not in (1, None) or kind not in ("MONOCHROME1", "MONOCHROME2"):
            raise ImageReadError(
                f"{plane.name} is in colour ({kind or 'unknown'}), not a scan in grey values; give the scan itself"
            )
        if kind == "MONOCHROME1":
            raise ImageReadError(
                f"{plane.name} is MONOCHROME1: its values are inverted for display, and are no measurements; export "
                "the series as MONOCHROME2"
            )
    for syntax in {_transfer_syntax(plane) for plane in planes}:
        if not syntax.is_transfer_syntax:
            raise ImageReadError(f"the images are stored in no way that is known ({syntax}); export the series again")
        if syntax.is_compressed:
            check_decodable(syntax)


def read_images(planes: Sequence[ImagePlane], check: Callable[[], None] = lambda: None) -> npt.NDArray[Any]:
    """Return the images as one array (slice, row, column): int16 if that holds all values, else float32.

    Rescale Slope and Intercept, or a modality LUT, are applied to each image by itself.

    Args:
        planes: of one size.
        check: called for every image; may raise to stop.

    Raises:
        ImageReadError: pixel data is missing, truncated or damaged, takes too much memory or time to decode, or has
            values that no scanner gives.
    """
    images: npt.NDArray[Any] = np.empty((len(planes), *planes[0].size), dtype=np.int16)
    for number, (plane, stored) in enumerate(zip(planes, _stored(planes), strict=True)):
        check()
        if stored.shape != plane.size:
            raise ImageReadError(f"{plane.name} has pixels of shape {stored.shape}, its header says {plane.size}")
        image = _rescaled(stored, plane)
        low, high = float(image.min()), float(image.max())
        if not -_LARGEST_INTENSITY <= low <= high <= _LARGEST_INTENSITY:  # False for NaN as well
            raise ImageReadError(
                f"{plane.name} has values that no scanner gives (by its Rescale Slope); export the series again"
            )
        if images.dtype == np.int16 and not (
            _INT16.min <= low
            and high <= _INT16.max
            and (image.dtype.kind in "iu" or np.array_equal(image, np.rint(image)))
        ):
            images = images.astype(np.float32)
        images[number] = image
    return images


def _rescaled(stored: npt.NDArray[Any], plane: ImagePlane) -> npt.NDArray[Any]:
    try:
        return np.asarray(apply_modality_lut(stored, plane.rescaling))
    except Exception as error:  # of many kinds, if a number is none
        raise ImageReadError(
            f"{plane.name} has a damaged Rescale Slope, Intercept or modality LUT ({error}); export the series again"
        ) from error


def _transfer_syntax(plane: ImagePlane) -> UID:
    return UID(plane.dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))


def _stored(planes: Sequence[ImagePlane]) -> Iterator[npt.NDArray[Any]]:
    """Yield the stored values of each image; what is compressed is decoded in a process of its own."""
    for syntax, group in groupby(planes, _transfer_syntax):
        images = list(group)
        requests = [
            DecodingRequest(path=str(path), frames=tuple(plane.frame for plane in of_file), deflated=syntax.is_deflated)
            for path, of_file in groupby(images, lambda plane: plane.path)
        ]
        values = decoded_apart(requests, images[0].size) if syntax.is_compressed else decoded(requests)
        for plane in images:
            try:
                yield next(values)
            except StopIteration:
                raise ImageReadError(f"{plane.name} has no pixels; fetch the series again") from None
            except (ImageReadError, MemoryError):
                raise
            except Exception as error:  # decoders raise nearly everything
                raise ImageReadError(
                    f"cannot read the pixels of {plane.name}: they are missing, truncated or damaged ({error}); fetch "
                    "the series again"
                ) from error

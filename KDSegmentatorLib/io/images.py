"""Reading and writing of 3-D images: NIfTI, NRRD, MetaImage and FreeSurfer's, with every header checked.

ITK repairs or overlooks much that must not be overlooked in a patient's image: a spacing of zero, an sform that
contradicts the qform, a decimal comma, a truncated file. So the files are read here; the tests compare what comes out
with SimpleITK and nibabel for every format.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from KDSegmentatorLib.arguments import as_path, described
from KDSegmentatorLib.errors import GeometryError, ImageReadError, ImageWriteError
from KDSegmentatorLib.geometry import Volume, slabs
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.io.metaimage import metaimage_header, read_metaimage_header
from KDSegmentatorLib.io.mgh import read_mgh_header
from KDSegmentatorLib.io.nifti import LabelNames, nifti_header, read_forms, read_nifti_header
from KDSegmentatorLib.io.nifti_forms import Forms
from KDSegmentatorLib.io.nrrd import nrrd_header, read_nrrd_header
from KDSegmentatorLib.io.voxels import Header, check_finite, read_voxels

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Suffixes of the image formats that are read and written."""

_READERS: dict[str, Callable[[Path], Header]] = {
    ".nii.gz": read_nifti_header, ".nii": read_nifti_header, ".nrrd": read_nrrd_header, ".mha": read_metaimage_header,
    ".nhdr": read_nrrd_header, ".mhd": read_metaimage_header, ".mgz": read_mgh_header, ".mgh": read_mgh_header,
}  # fmt: skip

READ_SUFFIXES = tuple(_READERS)
"""Suffixes of the image formats that are read."""

_TYPES = {
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64",
}  # fmt: skip
_COMPRESSION = 4
"""Twice as fast as 6, the files a tenth larger."""


def image_suffix(path: Path | str) -> str | None:
    """Return which of :data:`READ_SUFFIXES` a file name has (upper or lower case), or None."""
    name = Path(path).name.lower()
    return next((suffix for suffix in READ_SUFFIXES if name.endswith(suffix)), None)


def read_volume(path: Path | str, *, frame: int | None = None, allow_constant: bool = False) -> Volume:
    """Read a 3-D image.

    The voxels keep the type of the file (a CT in int16 stays int16), unless its header has a slope and an intercept,
    which are applied.

    Args:
        path: one of :data:`READ_SUFFIXES`.
        frame: which volume of a 4-D image, from 0.
        allow_constant: accept an image whose voxels all have the same value, as a label map in which nothing was found.

    Raises:
        GeometryError: the spacing is not positive, the direction not orthonormal, or there are too many voxels.
        ImageReadError: the file is missing, not readable, damaged or truncated, of another format, not 3-D, has
            several components, not in mm, two placements that disagree, no orientation, NaN or infinite voxels, or one
            value only.

    Examples:
        >>> volume = read_volume("t1.nii.gz")
        >>> fourth = read_volume("perfusion.nii.gz", frame=3)
    """
    path = as_path(path, "the name of an image", ImageReadError)

    def read() -> Volume:
        header = _READERS[_checked_suffix(path)](path)
        volume = header.grid.with_voxels(read_voxels(header, frame))
        if not allow_constant and volume.voxels.min() == volume.voxels.max():
            raise ImageReadError(
                f"every voxel has the value {volume.voxels.min()}, so there is nothing to see; export it again"
            )
        return volume

    return _naming(path, read)


def read_grid(path: Path | str) -> Volume:
    """Return an image's grid without reading its voxels: they are all zero and take no memory.

    The header passes the same checks as in :func:`read_volume`, and raises the same errors.
    """
    path = as_path(path, "the name of an image", ImageReadError)

    def read() -> Volume:
        header = _READERS[_checked_suffix(path)](path)
        if header.frames > 1:
            raise ImageReadError(f"the image is 4-D ({header.frames} volumes), not 3-D; give one volume of the series")
        return header.grid

    return _naming(path, read)


def write_volume(
    volume: Volume,
    path: Path | str,
    *,
    like: Path | str | None = None,
    labels: LabelNames | None = None,
    nrrd_fields: Mapping[str, str] | None = None,
) -> None:
    """Write a volume so that it appears whole or not at all; a file of that name is replaced.

    NRRD and MetaImage are compressed.

    Args:
        volume: integer (8 to 64 bits) or floating-point (32 or 64 bits) voxels, finite.
        path: one of :data:`SUFFIXES`, which selects the format; the folder must exist.
        like: the image that the volume was made from. If both are NIfTI and lie on one grid, its sform and qform and
            their codes are kept (an image in MNI space stays in MNI space).
        labels: names and colours of label values, which a NIfTI file keeps in an extension of its header.
        nrrd_fields: keys and values for the header of an NRRD file; see :mod:`KDSegmentatorLib.analysis.seg_nrrd`.

    Raises:
        ImageWriteError: the suffix or the voxel type is not supported, a voxel is NaN or infinite, the folder is
            missing or not writable, the disk is full, the format cannot hold the volume's geometry, or ``NAME.nii``
            lies beside the ``NAME.nii.gz`` to be written.

    Examples:
        >>> write_volume(segmentation.volume, "labels.nii.gz", like="t1.nii.gz")
    """
    path = as_path(path, "the name of the file to write", ImageWriteError)
    if not isinstance(volume, Volume):
        hint = "; of a Segmentation give .volume" if hasattr(volume, "volume") else ""
        raise ImageWriteError(f"cannot write {path}: give a Volume, not {described(volume)}{hint}")
    if labels is not None and not isinstance(labels, Mapping):
        raise ImageWriteError(
            f"cannot write {path}: labels must be like {{1: ('Liver', (221, 130, 101))}}, not {described(labels)}"
        )
    if like is not None:
        like = as_path(like, "the name of the image that the volume was made from (like)", ImageWriteError)
    suffix = image_suffix(path)
    if suffix not in SUFFIXES:
        raise ImageWriteError(f"cannot write {path}: the name must end in one of {', '.join(SUFFIXES)}")
    if (reason := shadowing_reason(path)) is not None:
        raise ImageWriteError(f"cannot write {path}: {reason}")
    if volume.voxels.dtype.name not in _TYPES:
        raise ImageWriteError(
            f"cannot write {path}: voxels of type {volume.voxels.dtype.name} cannot be stored; convert them, for "
            "example to uint8 or float32"
        )
    try:
        check_finite(volume.voxels)
        forms = _forms(like)
        with atomic_output(path) as temporary, temporary.open("wb") as file:
            if suffix == ".nrrd":
                file.write(nrrd_header(volume, nrrd_fields))
                _write_gzip(b"", volume, file)
            elif suffix == ".mha":
                _write_metaimage(volume, file)
            elif suffix == ".nii":
                file.write(nifti_header(volume, forms=forms, labels=labels))
                _write_voxels(volume, file.write)
            else:
                _write_gzip(nifti_header(volume, forms=forms, labels=labels), volume, file)
    except ImageReadError as error:  # other programs turn what is not finite into zeros when they read, or fail
        raise ImageWriteError(f"cannot write {path}: {error}") from error
    except ImageWriteError as error:
        if str(error).startswith("cannot write"):
            raise
        raise ImageWriteError(f"cannot write {path}: {error}") from error


def shadowing_reason(path: Path) -> str | None:
    """Return why nothing should be written to a ``NAME.nii.gz`` beside ``NAME.nii``, or None.

    ITK's NIfTI code, asked for ``scan.nii.gz``, takes the voxels from ``scan.nii`` if that lies beside it: the header
    of one scan with the voxels of another, without a word.
    """
    if not path.name.lower().endswith(".nii.gz"):
        return None
    stem = path.name[: -len(".nii.gz")]
    beside = (path.with_name(stem + suffix) for suffix in (".nii", ".NII"))
    other = next((other for other in beside if other.exists()), None)
    if other is None:
        return None
    return (
        f"{other.name} lies beside it, and programs built on ITK (3D Slicer, ITK-SNAP) would show its voxels under "
        "this name; give another name, or move that file"
    )


def _naming(path: Path, read: Callable[[], Volume]) -> Volume:
    """Read an image; every error names its file."""
    try:
        return read()
    except (GeometryError, ImageReadError) as error:
        raise type(error)(f"cannot read {path}: {error}") from error
    except PermissionError as error:
        raise ImageReadError(f"cannot read {path}: no permission ({error.strerror}); ask its owner") from error
    except OSError as error:
        raise ImageReadError(f"cannot read {path}: {error.strerror or error}; check the disk or the network") from error
    except MemoryError as error:
        raise ImageReadError(
            f"cannot read {path}: the computer has not enough memory for it; close other programs or crop the image"
        ) from error


def _checked_suffix(path: Path) -> str:
    """Return the suffix of an existing file of a format that is read."""
    if path.is_dir():
        raise ImageReadError("it is a folder; give the image's file (read_scan reads the DICOM series in a folder)")
    if not path.exists():
        raise ImageReadError("there is no such file; check the name")
    if not path.is_file():
        raise ImageReadError("it is a pipe or a device, not a file; write the image into a file first")
    suffix = image_suffix(path)
    if suffix is None:
        raise ImageReadError(f"the name must end in one of {', '.join(READ_SUFFIXES)}; convert the image")
    if path.stat().st_size == 0:
        raise ImageReadError("the file is empty; copy or export it again")
    return suffix


def _forms(like: Path | str | None) -> Forms | None:
    """Return the placements of the image that a volume was made from, if that is NIfTI and still there."""
    if like is None or image_suffix(like) not in (".nii", ".nii.gz") or not Path(like).is_file():
        return None
    try:
        return read_forms(Path(like))
    except (GeometryError, ImageReadError, OSError):
        return None


def _write_voxels(volume: Volume, write: Callable[[Any], Any]) -> None:
    dtype = volume.voxels.dtype.newbyteorder("<")
    for part in slabs(volume.voxels):
        write(np.ascontiguousarray(volume.voxels[part], dtype).data.cast("B"))


def _write_gzip(start: bytes, volume: Volume, file: BinaryIO) -> None:
    # No name and no time in the gzip header: the same image gives the same bytes.
    with closing(gzip.GzipFile("", "wb", fileobj=file, mtime=0, compresslevel=_COMPRESSION)) as stream:
        stream.write(start)
        _write_voxels(volume, stream.write)


def _write_metaimage(volume: Volume, file: BinaryIO) -> None:
    start = len(metaimage_header(volume, 0))
    file.seek(start)
    deflater = zlib.compressobj(_COMPRESSION)
    _write_voxels(volume, lambda data: file.write(deflater.compress(data)))
    file.write(deflater.flush())
    end = file.tell()
    file.seek(0)
    file.write(metaimage_header(volume, end - start))

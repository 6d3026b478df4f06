"""Reading and writing of 3-D images: NIfTI, NRRD and MetaImage through SimpleITK, with every header checked.

ITK repairs or overlooks much that must not be overlooked in a patient's image: a spacing of zero, an sform that
contradicts the qform, a truncated file. So the file itself is checked first (``nifti_header``, ``text_headers``), then
ITK reads it. SimpleITK is imported when it is first used, to keep the import of the library fast.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, ImageReadError, ImageWriteError
from KDSegmentatorLib.geometry import Volume, check_size, matrix, vector
from KDSegmentatorLib.io.atomic import atomic_output
from KDSegmentatorLib.io.checks import check_finite, check_three_axes
from KDSegmentatorLib.io.nifti_header import check_nifti, drop_qform
from KDSegmentatorLib.io.plain_paths import readable_by_itk, shadowing_reason, writable_by_itk
from KDSegmentatorLib.io.text_headers import check_metaimage, check_nrrd

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Suffixes of the image formats that are read and written."""

_IMAGE_IO = {".nii.gz": "NiftiImageIO", ".nii": "NiftiImageIO", ".nrrd": "NrrdImageIO", ".mha": "MetaImageIO"}
_CHECKS = {".nii.gz": check_nifti, ".nii": check_nifti, ".nrrd": check_nrrd, ".mha": check_metaimage}
_TYPES = {
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64",
}  # fmt: skip
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def image_suffix(path: Path | str) -> str | None:
    """Return which of :data:`SUFFIXES` a file name has (upper or lower case), or None."""
    name = Path(path).name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_volume(path: Path | str, *, allow_constant: bool = False) -> Volume:
    """Read a 3-D image.

    The voxels keep the type of the file (a CT in int16 stays int16); a NIfTI's slope and intercept are applied.

    Args:
        path: one of :data:`SUFFIXES`.
        allow_constant: accept an image whose voxels all have the same value, as a label map in which nothing was found.

    Raises:
        GeometryError: the spacing is not positive, the direction not orthonormal, or there are too many voxels.
        ImageReadError: the file is missing, not readable, damaged or truncated, of another format, not 3-D, has
            several components, not in mm, an sform and a qform that disagree, no orientation, NaN or infinite
            voxels, or one value only.
    """
    path = Path(path)
    try:
        volume = _read(path)
        _check_values(volume.voxels, allow_constant=allow_constant)
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
    return volume


def read_grid(path: Path | str) -> Volume:
    """Return an image's grid without reading its voxels: they are all zero and take no memory.

    The header passes the same checks as in :func:`read_volume`, and raises the same errors.
    """
    path = Path(path)
    try:
        return _written_grid(path, _check_file(path))
    except (GeometryError, ImageReadError) as error:
        raise type(error)(f"cannot read {path}: {error}") from error
    except RuntimeError as error:
        raise ImageReadError(f"cannot read {path}: ITK cannot read it ({_itk_text(error)}); export it again") from error
    except OSError as error:
        raise ImageReadError(f"cannot read {path}: {error.strerror or error}; check the disk or the network") from error


def write_volume(volume: Volume, path: Path | str) -> None:
    """Write a volume so that it appears whole or not at all; a file of that name is replaced.

    What was written is read back, header and length, before it takes the place of ``path``. NRRD and MetaImage are
    compressed.

    Args:
        volume: integer (8 to 64 bits) or floating-point (32 or 64 bits) voxels, finite.
        path: one of :data:`SUFFIXES`, which selects the format; the folder must exist.

    Raises:
        ImageWriteError: the suffix or the voxel type is not supported, a voxel is NaN or infinite, the folder is
            missing or not writable, the disk is full, the format cannot hold the volume's geometry, or ``NAME.nii``
            lies beside the ``NAME.nii.gz`` to be written.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if suffix is None:
        raise ImageWriteError(f"cannot write {path}: the name must end in one of {', '.join(SUFFIXES)}")
    if (reason := shadowing_reason(path)) is not None:
        raise ImageWriteError(f"cannot write {path}: {reason}")
    if volume.voxels.dtype.name not in _TYPES:
        raise ImageWriteError(
            f"cannot write {path}: voxels of type {volume.voxels.dtype.name} cannot be stored; convert them, for "
            "example to uint8 or float32"
        )
    try:
        check_finite(volume.voxels.ravel(), volume.size)
    except ImageReadError as error:
        # Other programs turn them into zeros when they read, or fail.
        raise ImageWriteError(f"cannot write {path}: {error}") from error
    with atomic_output(path) as temporary:
        try:
            _write(volume, temporary, suffix)
        except (RuntimeError, GeometryError, ImageReadError) as error:
            free = shutil.disk_usage(temporary.parent).free
            reason = _itk_text(error) if isinstance(error, RuntimeError) else "what was written does not read back"
            raise ImageWriteError(
                f"cannot write {path}: {reason}. The disk has {free / 1e6:,.0f} MB left: free some space, or write "
                "somewhere else"
            ) from error
        except ImageWriteError as error:
            raise ImageWriteError(f"cannot write {path}: {error}") from error


def _read(path: Path) -> Volume:
    suffix = _check_file(path)
    _CHECKS[suffix](path)
    with readable_by_itk(path, suffix) as name:
        import SimpleITK

        try:
            reader, grid = _open(name, suffix)
            volume = grid.with_voxels(SimpleITK.GetArrayFromImage(reader.Execute()))
        except RuntimeError as error:
            raise ImageReadError(f"ITK cannot read it ({_itk_text(error)}); export it again") from error
    if volume.voxels.dtype.name not in _TYPES:
        raise ImageReadError(f"the voxels are {volume.voxels.dtype.name}; give an image with one real number a voxel")
    return volume


def _check_file(path: Path) -> str:
    """Return the suffix of an existing file of a supported format."""
    if path.is_dir():
        raise ImageReadError("it is a folder; give the image's file (convert a DICOM series to .nii.gz or .nrrd first)")
    if not path.exists():
        raise ImageReadError("there is no such file; check the name")
    suffix = image_suffix(path)
    if suffix is None:
        raise ImageReadError(f"the name must end in one of {', '.join(SUFFIXES)}; convert the image")
    if path.stat().st_size == 0:
        raise ImageReadError("the file is empty; copy or export it again")
    return suffix


def _open(name: str, suffix: str) -> tuple[Any, Volume]:
    """Let ITK read the header only; return its reader and the grid, with voxels that take no memory.

    Raises:
        GeometryError: see :func:`read_volume`.
        ImageReadError: not 3-D or several components.
        RuntimeError: ITK cannot read the header.
    """
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(name)
    # The format is known; ITK would otherwise try all of its formats, some of which complain on standard error.
    reader.SetImageIO(_IMAGE_IO[suffix])
    reader.ReadImageInformation()
    size = tuple(reader.GetSize())
    check_three_axes(size)
    check_size(size)
    components = reader.GetNumberOfComponents()
    if components != 1:
        raise ImageReadError(
            f"it has {components} components a voxel (colour, vectors or complex numbers); give an image with one "
            "number a voxel"
        )
    # ITK yields -0.0 for some axes, which prints badly; adding zero makes it 0.0.
    spacing = vector(reader.GetSpacing())
    origin = vector(np.asarray(reader.GetOrigin()) + 0.0)
    direction = matrix(np.asarray(reader.GetDirection()) + 0.0)
    return reader, Volume(np.broadcast_to(np.uint8(0), size[::-1]), spacing, origin, direction)


def _check_values(voxels: npt.NDArray[Any], *, allow_constant: bool) -> None:
    check_finite(voxels.ravel(), voxels.shape[::-1])
    if not allow_constant and voxels.min() == voxels.max():
        raise ImageReadError(f"every voxel has the value {voxels.min()}, so there is nothing to see; export it again")


def _write(volume: Volume, path: Path, suffix: str) -> None:
    import SimpleITK

    # ITK knows the machine's own byte order only.
    voxels = np.ascontiguousarray(volume.voxels, dtype=volume.voxels.dtype.newbyteorder("="))
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection([cosine for row in volume.direction for cosine in row])
    with writable_by_itk(path, suffix) as name:
        writer = SimpleITK.ImageFileWriter()
        writer.SetFileName(name)
        writer.SetImageIO(_IMAGE_IO[suffix])
        writer.SetUseCompression(True)
        writer.Execute(image)
    if _written_grid(path, suffix).same_grid(volume):
        return
    if _IMAGE_IO[suffix] == "NiftiImageIO":
        drop_qform(path, _LPS_TO_RAS @ volume.affine)
        if _written_grid(path, suffix).same_grid(volume):
            return
    raise ImageWriteError(
        f"{suffix} cannot hold where this volume lies (origin {volume.origin} mm) to a thousandth of a voxel; write "
        ".nrrd or .mha"
    )


def _written_grid(path: Path, suffix: str) -> Volume:
    """Check a written file as if it were an input, and return its grid."""
    _CHECKS[suffix](path)
    with readable_by_itk(path, suffix) as name:
        return _open(name, suffix)[1]


def _itk_text(error: Exception) -> str:
    """Return what ITK complained about, without its source files and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rpartition("ERROR: ")[2] if lines else "no reason given"

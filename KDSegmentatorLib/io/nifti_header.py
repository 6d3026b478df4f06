"""Checks of a NIfTI-1 header that ITK does not make, or answers with a silent repair.

ITK takes a spacing of zero as one, prefers the qform when the sform contradicts it, turns NaN into zero, fills what a
truncated file lacks with whatever lies in memory, and reads an image without any orientation as if it had one.
"""

from __future__ import annotations

import gzip
import math
import shutil
import struct
import zlib
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import check_placement, check_size, matrix, vector
from KDSegmentatorLib.io.atomic import atomic_output
from KDSegmentatorLib.io.checks import check_finite, check_three_axes, voxel_chunks
from KDSegmentatorLib.io.files import CHUNK_BYTES

if TYPE_CHECKING:
    from pathlib import Path

_HEADER_BYTES = 348
_FIRST_VOXEL = 352
_OFFSET_LIMIT = 1 << 31
_LENGTH_UNITS = {1: "metres", 3: "micrometres"}
_BYTES_PER_VOXEL = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}
_FLOATS = {16: "f4", 64: "f8"}
_OTHER_TYPES = {1: "1-bit", 32: "complex", 128: "RGB", 1536: "128-bit", 1792: "complex", 2048: "complex", 2304: "RGBA"}
_CODE_NAMES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_DISAGREEMENT_VOXELS = 0.1
"""The sform and the qform may place a corner differently by this fraction of the smallest spacing."""

_QUATERNION_ROUNDING = 2.4e-7
"""Rounding error of 1 - b^2 - c^2 - d^2, from which a reader computes the quaternion's first element, in float32."""


@dataclass(frozen=True, kw_only=True)
class NiftiHeader:
    """What a NIfTI-1 header says about size and place.

    Attributes:
        byte_order: ``"<"`` or ``">"``.
        shape: voxels along i, j, k and further axes.
        data_type: NIfTI's number of the voxel type.
        data_offset: bytes before the first voxel.
        length_unit: NIfTI's number of the unit of lengths; 0 is unknown, 2 mm.
        spacing: (i, j, k), in the file's unit.
        qform: 4 x 4 matrix from (i, j, k, 1) to (R, A, S, 1), valid if ``qform_code`` > 0.
        sform: likewise.
        scale: slope and intercept of the intensities; slope 0 stands for none.
    """

    byte_order: str
    shape: tuple[int, ...]
    data_type: int
    data_offset: int
    length_unit: int
    spacing: tuple[float, float, float]
    qform_code: int
    sform_code: int
    qform: npt.NDArray[np.float64]
    sform: npt.NDArray[np.float64]
    scale: tuple[float, float] = (0.0, 0.0)


def check_nifti(path: Path) -> None:
    """Check that a NIfTI file is whole and says one clear thing about where its voxels are.

    Raises:
        GeometryError: the spacing is not positive, the axes are sheared, or the file has too many voxels.
        ImageReadError: not NIfTI-1, not 3-D, not one number a voxel, not mm, truncated, much longer than its image,
            NaN, sform and qform disagree, or neither is given.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if compressed and not path.name.lower().endswith(".gz"):
                raise ImageReadError("the file is compressed, but its name ends in .nii; rename it to .nii.gz")
            stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if compressed else file
            header = parse_header(stream.read(_HEADER_BYTES))
            check_header(header)
            _check_voxels(stream, header)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageReadError(f"the file is truncated or damaged ({error}); copy or export it again") from error


def parse_header(data: bytes) -> NiftiHeader:
    """Return the fields of a NIfTI-1 header of either byte order.

    Raises:
        ImageReadError: it is not the header of a single-file NIfTI-1 image.
    """
    if len(data) < _HEADER_BYTES:
        raise ImageReadError(f"the file is truncated: {len(data)} bytes, a NIfTI header alone has {_HEADER_BYTES}")
    sizes = {order: struct.unpack_from(f"{order}i", data)[0] for order in "<>"}
    if 540 in sizes.values():
        raise ImageReadError("the file is NIfTI-2, which ITK does not read; convert it to NIfTI-1 or .nrrd")
    order = next((order for order, size in sizes.items() if size == _HEADER_BYTES), None)
    if order is None:
        raise ImageReadError("the file is not a NIfTI image, whatever its name says; export it again")
    if data[344:347] != b"n+1":
        kind = "the header of a NIfTI .hdr/.img pair" if data[344:347] == b"ni1" else "in the old Analyze format"
        raise ImageReadError(f"the file is {kind}; convert it to a single .nii.gz")
    axes, *lengths = struct.unpack_from(f"{order}8h", data, 40)
    if not 1 <= axes <= 7:
        raise ImageReadError(f"the header is damaged: it names {axes} axes; export the image again")
    shape = lengths[:axes]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    factor, *pixdim = struct.unpack_from(f"{order}4f", data, 76)
    offset = struct.unpack_from(f"{order}f", data, 108)[0]
    quaternion = struct.unpack_from(f"{order}3f", data, 256)
    shift = struct.unpack_from(f"{order}3f", data, 268)
    sform = np.eye(4)
    sform[:3] = np.reshape(struct.unpack_from(f"{order}12f", data, 280), (3, 4))
    qform_code, sform_code = struct.unpack_from(f"{order}2h", data, 252)
    return NiftiHeader(
        byte_order=order,
        shape=tuple(shape),
        data_type=struct.unpack_from(f"{order}h", data, 70)[0],
        data_offset=max(int(offset), _FIRST_VOXEL) if math.isfinite(offset) else _FIRST_VOXEL,
        length_unit=data[123] & 7,
        spacing=vector(pixdim),
        qform_code=qform_code,
        sform_code=sform_code,
        qform=_quaternion_matrix(quaternion, shift, pixdim, -1 if factor < 0 else 1),
        sform=sform,
        scale=struct.unpack_from(f"{order}2f", data, 112),
    )


def check_header(header: NiftiHeader) -> None:
    """Check all that a NIfTI header says.

    Raises:
        GeometryError: the spacing is not positive, the axes are sheared, or there are too many voxels.
        ImageReadError: not 3-D, not one number a voxel, the voxels start too late, not mm, the intensities have no
            finite scale, sform and qform disagree, or neither is given.
    """
    check_three_axes(header.shape)
    check_size(header.shape)
    if header.data_type not in _BYTES_PER_VOXEL:
        name = _OTHER_TYPES.get(header.data_type, f"of unknown type {header.data_type}")
        raise ImageReadError(f"the voxels are {name}; give an image with one number a voxel")
    if header.data_offset > _OFFSET_LIMIT:
        raise _late_voxels(header.data_offset)
    if header.length_unit in _LENGTH_UNITS:
        raise ImageReadError(
            f"lengths are in {_LENGTH_UNITS[header.length_unit]} (xyzt_units), not mm; export the image again in mm"
        )
    if not all(math.isfinite(value) and value > 0 for value in header.spacing):
        raise GeometryError(f"the spacing (pixdim) {header.spacing} mm is not positive; repair the image's header")
    if not all(math.isfinite(value) for value in header.scale):
        raise ImageReadError(
            f"the header is damaged: it scales the intensities by {header.scale[0]:g} and adds {header.scale[1]:g} "
            "(scl_slope, scl_inter); export the image again"
        )
    if header.qform_code <= 0 and header.sform_code <= 0:
        raise ImageReadError(
            "the header does not say how the image lies in the patient (sform and qform code are 0), so left and right "
            "cannot be told apart; check its orientation in a viewer and save it with an sform or qform code above 0"
        )
    forms = {"sform": (header.sform_code, header.sform), "qform": (header.qform_code, header.qform)}
    used = {name: affine for name, (code, affine) in forms.items() if code > 0}
    for name, affine in used.items():
        if not np.isfinite(affine).all() or not np.linalg.norm(affine[:3, :3], axis=0).all():
            raise GeometryError(f"the {name} is not a usable matrix ({affine[:3].tolist()}); repair the image's header")
    if len(used) == 2:
        _check_agreement(header)
    for name, affine in used.items():
        _check_affine(name, affine, header.spacing)


def drop_qform(path: Path, sform: npt.NDArray[np.float64]) -> None:
    """Rewrite a NIfTI-1 file of this machine's byte order with this sform and without a qform.

    A quaternion cannot hold a direction that is not orthonormal to the last digit (cosines printed with six digits),
    and ITK prefers it to the sform.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        sform: 4 x 4 matrix from (i, j, k, 1) to (R, A, S, 1) in mm.

    Raises:
        ImageWriteError: the file could not be written.
    """
    compressed = path.suffix == ".gz"
    with atomic_output(path) as temporary, path.open("rb") as source, temporary.open("wb") as sink:
        # No name and no time in the gzip header: the same image gives the same bytes.
        reader = cast("BinaryIO", gzip.GzipFile(fileobj=source)) if compressed else source
        writer = gzip.GzipFile("", "wb", fileobj=sink, mtime=0, compresslevel=6) if compressed else sink
        header = bytearray(reader.read(_FIRST_VOXEL))
        struct.pack_into("=h", header, 252, 0)
        struct.pack_into("=12f", header, 280, *sform[:3].ravel().tolist())
        writer.write(bytes(header))
        shutil.copyfileobj(reader, writer, CHUNK_BYTES)
        if compressed:
            writer.close()


def _check_affine(name: str, affine: npt.NDArray[np.float64], spacing: tuple[float, float, float]) -> None:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(lengths / spacing - 1).max() > 1e-3:
        raise GeometryError(
            f"the header says two different things about the spacing: {_text(spacing)} mm (pixdim) and "
            f"{_text(lengths)} mm ({name}); find out which is right and repair the header"
        )
    try:
        check_placement(vector(lengths), vector(affine[:3, 3]), matrix(affine[:3, :3] / lengths))
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error


def _check_agreement(header: NiftiHeader) -> None:
    corners = np.array([[*index, 1] for index in product(*((0, length - 1) for length in header.shape))], dtype=float)
    by_sform, by_qform = (corners @ (_RAS_TO_LPS @ affine).T for affine in (header.sform, header.qform))
    distances = np.linalg.norm(by_sform - by_qform, axis=1)
    worst = int(np.argmax(distances))
    extent = math.hypot(*(length * step for length, step in zip(header.shape, header.spacing, strict=True)))
    tolerance = _DISAGREEMENT_VOXELS * min(header.spacing) + _rounding_angle(header.qform) * extent
    if distances[worst] > tolerance:
        raise ImageReadError(
            "the header says two different things about where the image lies: "
            f"the sform ({_code(header.sform_code)}) puts voxel {tuple(map(int, corners[worst, :3]))} at "
            f"(L, P, S) = {_text(by_sform[worst])} mm, the qform ({_code(header.qform_code)}) at "
            f"{_text(by_qform[worst])} mm, {distances[worst]:.3g} mm apart. Find out which one is right and set the "
            "code of the other to 0, for example with nibabel: image.set_qform(None) keeps the sform, "
            "image.set_sform(None) the qform"
        )


def _rounding_angle(qform: npt.NDArray[np.float64]) -> float:
    """Return by how many radians float32 rounding of the quaternion may turn the qform.

    Its first element is not stored but computed as sqrt(1 - b^2 - c^2 - d^2), which is ill-conditioned for turns by
    about 180 degrees.
    """
    rotation = qform[:3, :3] / np.linalg.norm(qform[:3, :3], axis=0)
    if np.linalg.det(rotation) < 0:
        rotation[:, 2] *= -1
    first = math.sqrt(max(np.trace(rotation) + 1, 0.0)) / 2
    return 2 * min(math.sqrt(_QUATERNION_ROUNDING), _QUATERNION_ROUNDING / (2 * max(first, 1e-9)))


def _quaternion_matrix(
    quaternion: tuple[float, ...], shift: tuple[float, ...], spacing: list[float], factor: int
) -> npt.NDArray[np.float64]:
    b, c, d = quaternion
    rest = 1 - (b * b + c * c + d * d)
    if rest < 1e-7:  # as the NIfTI library does
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = math.sqrt(rest)
    rotation = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ]
    affine = np.eye(4)
    with np.errstate(invalid="ignore"):  # what is not finite is reported by check_header
        affine[:3, :3] = np.array(rotation) * [spacing[0], spacing[1], spacing[2] * factor]
    affine[:3, 3] = shift
    return affine


def _check_voxels(stream: BinaryIO, header: NiftiHeader) -> None:
    """Read on from the header to the end, where gzip checks its sum; every voxel must be there and be a number."""
    left = header.data_offset - _HEADER_BYTES
    while left > 0:
        skipped = len(stream.read(min(left, CHUNK_BYTES)))
        if skipped == 0:
            raise _late_voxels(header.data_offset)
        left -= skipped
    width = _BYTES_PER_VOXEL[header.data_type]
    expected = math.prod(header.shape) * width
    present = 0
    for chunk in voxel_chunks(stream, expected):
        if header.data_type in _FLOATS:
            count = max(0, min(len(chunk), expected - present)) // width
            values = np.frombuffer(chunk, f"{header.byte_order}{_FLOATS[header.data_type]}", count)
            check_finite(values, header.shape, present // width)
        present += len(chunk)


def _late_voxels(offset: int) -> ImageReadError:
    return ImageReadError(
        f"the header puts the first voxel at byte {offset:.4g} (vox_offset), beyond the end of the file: it is "
        "truncated or its header damaged; copy or export it again"
    )


def _code(code: int) -> str:
    return f"code {code}, {_CODE_NAMES[code]}" if code in _CODE_NAMES else f"code {code}"


def _text(values: npt.ArrayLike) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values, dtype=float)[:3]) + ")"

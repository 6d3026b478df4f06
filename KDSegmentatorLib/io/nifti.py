"""NIfTI-1 and NIfTI-2 in one file: ``.nii`` and ``.nii.gz``.

Two matrices, the sform and the qform, may place the voxels, each with a code that says in which space. What a header
says is checked, not repaired: other readers take a spacing of zero as one, prefer one matrix when the other contradicts
it, and read an image without any orientation as if it had one.
"""

from __future__ import annotations

import gzip
import logging
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, ImageReadError, ImageWriteError
from KDSegmentatorLib.geometry import Volume, check_placement, check_size, matrix, vector
from KDSegmentatorLib.io.voxels import Header, check_axes

LabelNames = Mapping[int, tuple[str, tuple[int, int, int]]]
"""Label value to name and colour (red, green, blue, 0 to 255)."""

_FIRST_VOXEL = 352
_LONGEST_AXIS = 32767
_OFFSET_LIMIT = 1 << 31
_LENGTH_UNITS = {1: "metres", 3: "micrometres"}
_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_OTHER_TYPES = {1: "1-bit", 32: "complex", 128: "RGB", 1536: "128-bit", 1792: "complex", 2048: "complex", 2304: "RGBA"}
_CODE_NAMES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}
_LABEL_EXTENSION = 0
"""TotalSegmentator's; nibabel cannot unpack 30, Caret's own."""

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LPS_TO_RAS = _RAS_TO_LPS

_DISAGREEMENT_VOXELS = 0.1
"""The sform and the qform may place a corner differently by this fraction of the smallest spacing."""

_ROUNDED_DISAGREEMENT_VOXELS = 0.5
"""The same where one of the two is exact and the other was rounded to three or four decimals."""

_QUATERNION_ROUNDING = 2.4e-7
"""Rounding error of 1 - b^2 - c^2 - d^2, from which a reader computes the quaternion's first element, in float32."""

_log = logging.getLogger(__name__)


class _Layout(NamedTuple):
    """Where the fields of a header lie, and their ``struct`` formats."""

    length: int
    dim: tuple[int, str]
    data_type: tuple[int, str]
    pixdim: tuple[int, str]
    offset: tuple[int, str]
    scale: tuple[int, str]
    units: tuple[int, str]
    codes: tuple[int, str]
    quaternion: tuple[int, str]
    sform: tuple[int, str]


_NIFTI_1 = _Layout(
    348, (40, "8h"), (70, "h"), (76, "8f"), (108, "f"), (112, "2f"), (123, "B"), (252, "2h"), (256, "6f"), (280, "12f")
)
_NIFTI_2 = _Layout(
    540, (16, "8q"), (12, "h"), (104, "8d"), (168, "q"), (176, "2d"), (500, "i"), (344, "2i"), (352, "6d"), (400, "12d")
)


@dataclass(frozen=True, kw_only=True)
class Forms:
    """The two placements of a NIfTI header, as they are stored.

    Attributes:
        qform_code: 0: there is no qform.
        sform_code: 0: there is no sform.
        factor: 1, or -1 if the qform is left-handed (``pixdim[0]``).
        spacing: along i, j, k in mm (``pixdim[1:4]``).
        quaternion: b, c, d, and the place of the first voxel in RAS.
        rows: of the sform, 12 numbers.
    """

    qform_code: int
    sform_code: int
    factor: float
    spacing: tuple[float, ...]
    quaternion: tuple[float, ...]
    rows: tuple[float, ...]

    @property
    def sform(self) -> npt.NDArray[np.float64]:
        """4 x 4 matrix from (i, j, k, 1) to (R, A, S, 1)."""
        affine = np.eye(4)
        affine[:3] = np.reshape(self.rows, (3, 4))
        return affine

    @property
    def qform(self) -> npt.NDArray[np.float64]:
        """4 x 4 matrix from (i, j, k, 1) to (R, A, S, 1)."""
        factor = -1 if self.factor < 0 else 1
        affine = np.eye(4)
        with np.errstate(invalid="ignore"):  # what is not finite is reported by placement
            affine[:3, :3] = _rotation(self.quaternion[:3]) * [*self.spacing[:2], self.spacing[2] * factor]
        affine[:3, 3] = self.quaternion[3:]
        return affine


def read_nifti_header(path: Path) -> Header:
    """Return the header of a NIfTI image, of one volume or a series.

    Raises:
        GeometryError: the spacing is not positive, the axes are sheared, or there are too many voxels.
        ImageReadError: not NIfTI, not 3-D, not one number a voxel, not mm, the intensities have no finite scale, sform
            and qform disagree, or neither is given.
    """
    return _read(path)[0]


def read_forms(path: Path) -> Forms:
    """Return the two placements of a NIfTI image; raises the errors of :func:`read_nifti_header`."""
    return _read(path)[1]


def nifti_header(volume: Volume, *, forms: Forms | None = None, labels: LabelNames | None = None) -> bytes:
    """Return a NIfTI-1 header, up to the voxels, which follow in little-endian order.

    Args:
        volume: the image.
        forms: of the image that the volume was made from, kept if they place the volume's voxels where they are.
        labels: names, in an extension with Caret's label table, as TotalSegmentator writes it.

    Raises:
        ImageWriteError: an axis is too long, or the volume's place cannot be held to a thousandth of a voxel.
    """
    if max(volume.size) > _LONGEST_AXIS:
        raise ImageWriteError(
            f"an axis of {max(volume.size)} is greater than maximum possible in NIfTI, {_LONGEST_AXIS}; write .nrrd "
            "or .mha"
        )
    if forms is None or not _places(forms, volume):
        forms = _new_forms(volume)
    kind = volume.voxels.dtype
    extension = b"" if labels is None else _label_extension(labels)
    data = bytearray(_FIRST_VOXEL)
    for (offset, form), values in (
        ((0, "i"), (_NIFTI_1.length,)),
        (_NIFTI_1.dim, (3, *volume.size, 1, 1, 1, 1)),
        (_NIFTI_1.data_type, (next(code for code, name in _TYPES.items() if name == kind.str[1:]),)),
        ((72, "h"), (8 * kind.itemsize,)),
        (_NIFTI_1.pixdim, (forms.factor, *volume.spacing, 0, 0, 0, 0)),
        (_NIFTI_1.offset, (_FIRST_VOXEL + len(extension),)),
        (_NIFTI_1.scale, (1, 0)),
        (_NIFTI_1.units, (2,)),
        (_NIFTI_1.codes, (forms.qform_code, forms.sform_code)),
        (_NIFTI_1.quaternion, forms.quaternion),
        (_NIFTI_1.sform, forms.rows),
        ((344, "4s"), (b"n+1",)),
        ((348, "B"), (1 if extension else 0,)),
    ):
        struct.pack_into(f"<{form}", data, offset, *values)
    return bytes(data) + extension


def _read(path: Path) -> tuple[Header, Forms]:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if compressed and not path.name.lower().endswith(".gz"):
            raise ImageReadError("the file is compressed, but its name ends in .nii; rename it to .nii.gz")
        try:
            data = (gzip.GzipFile(fileobj=file) if compressed else file).read(_NIFTI_2.length)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ImageReadError(f"the file is truncated or damaged ({error}); copy or export it again") from error
    layout, order = _layout(data)

    def field(name: str) -> tuple[Any, ...]:
        offset, form = getattr(layout, name)
        return struct.unpack_from(f"{order}{form}", data, offset)

    sizes = _sizes(field("dim"))
    size = check_axes(sizes)
    check_size(size)
    data_type = field("data_type")[0]
    if data_type not in _TYPES:
        name = _OTHER_TYPES.get(data_type, f"of unknown type {data_type}")
        raise ImageReadError(f"the voxels are {name}; give an image with one number a voxel")
    if field("units")[0] & 7 in _LENGTH_UNITS:
        raise ImageReadError(
            f"lengths are in {_LENGTH_UNITS[field('units')[0] & 7]} (xyzt_units), not mm; export the image again in mm"
        )
    factor, *spacing = field("pixdim")[:4]
    forms = Forms(
        qform_code=field("codes")[0], sform_code=field("codes")[1], factor=factor, spacing=tuple(spacing),
        quaternion=field("quaternion"), rows=field("sform"),
    )  # fmt: skip
    slope, intercept = field("scale")
    affine = _placement(forms, size)
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ImageReadError(
            f"the header is damaged: it scales the intensities by {slope:g} and adds {intercept:g} "
            "(scl_slope, scl_inter); export the image again"
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    header = Header(
        size=size,
        spacing=vector(spacing),
        origin=vector(affine[:3, 3] + 0.0),
        direction=matrix(affine[:3, :3] / lengths + 0.0),
        dtype=np.dtype(order + _TYPES[data_type]),
        frames=sizes[3] if len(sizes) == 4 else 1,
        slope=slope if slope != 0 else 1.0,
        intercept=intercept if slope != 0 else 0.0,
        files=(path,),
        skip=_first_voxel(field("offset")[0], layout),
        encoding="gzip" if compressed else "raw",
    )
    return header, forms


def _layout(data: bytes) -> tuple[_Layout, str]:
    """Return where the fields lie and the byte order."""
    if len(data) < _NIFTI_1.length:
        raise ImageReadError(f"the file is truncated: {len(data)} bytes, a NIfTI header alone has {_NIFTI_1.length}")
    for order, layout in product("<>", (_NIFTI_1, _NIFTI_2)):
        if struct.unpack_from(f"{order}i", data)[0] == layout.length:
            break
    else:
        raise ImageReadError("the file is not a NIfTI image, whatever its name says; export it again")
    magic = data[344:347] if layout is _NIFTI_1 else data[4:7]
    if layout is _NIFTI_2 and (len(data) < layout.length or magic not in (b"n+2", b"ni2")):
        raise ImageReadError("the file is not a NIfTI image, whatever its name says, or damaged; export it again")
    if magic not in (b"n+1", b"n+2"):
        kind = "the header of a NIfTI .hdr/.img pair" if magic[:2] == b"ni" else "in the old Analyze format"
        raise ImageReadError(f"the file is {kind}; convert it to a single .nii.gz")
    return layout, order


def _sizes(dim: tuple[int, ...]) -> tuple[int, ...]:
    axes, *lengths = dim
    if not 1 <= axes <= 7:
        raise ImageReadError(f"the header is damaged: it names {axes} axes; export the image again")
    sizes = list(lengths[:axes])
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _first_voxel(offset: float, layout: _Layout) -> int:
    least = layout.length + 4
    if not math.isfinite(offset):
        return least
    if offset > _OFFSET_LIMIT:
        raise ImageReadError(
            f"the header puts the first voxel at byte {offset:.4g} (vox_offset), beyond the end of the file: it is "
            "truncated or its header damaged; copy or export it again"
        )
    return max(int(offset), least)


def _placement(forms: Forms, size: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """Return the matrix from (i, j, k, 1) to (L, P, S, 1) that both forms agree on.

    As in ITK, the sform counts if its code is 1 (scanner) or there is no qform, otherwise the qform; but of one form
    that is exact and one that was rounded, the exact one.
    """
    if not all(math.isfinite(value) and value > 0 for value in forms.spacing):
        raise GeometryError(f"the spacing (pixdim) {forms.spacing} mm is not positive; repair the image's header")
    used = {}
    if forms.sform_code > 0:
        used["sform"] = forms.sform
    if forms.qform_code > 0:
        used["qform"] = forms.qform
    if not used:
        raise ImageReadError(
            "the header does not say how the image lies in the patient (sform and qform code are 0), so left and right "
            "cannot be told apart; check its orientation in a viewer and save it with an sform or qform code above 0"
        )
    for name, affine in used.items():
        if not np.isfinite(affine).all() or not np.linalg.norm(affine[:3, :3], axis=0).all():
            raise GeometryError(f"the {name} is not a usable matrix ({affine[:3].tolist()}); repair the image's header")
    inexact = {name: error for name, affine in used.items() if (error := _inexact(name, affine, forms.spacing))}
    chosen = "sform" if "sform" in used and (forms.sform_code == 1 or "qform" not in used) else "qform"
    if len(used) == 2:
        rounded = len(inexact) == 1
        distance = _check_agreement(forms, size, rounded=rounded)
        if rounded:
            chosen = "qform" if "sform" in inexact else "sform"
            _log.warning(
                "The header's %s is rounded (up to %.3g mm off); the exact %s is taken.",
                *inexact, distance, chosen,
            )  # fmt: skip
    if chosen in inexact:
        raise inexact[chosen]
    return _RAS_TO_LPS @ used[chosen]


def _inexact(name: str, affine: npt.NDArray[np.float64], spacing: tuple[float, ...]) -> GeometryError | None:
    """Return why a form cannot place the voxels by itself, None if it can."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(lengths / spacing - 1).max() > 1e-3:
        return GeometryError(
            f"the header says two different things about the spacing: {_text(spacing)} mm (pixdim) and "
            f"{_text(lengths)} mm ({name}); find out which is right and repair the header"
        )
    try:
        check_placement(vector(lengths), vector(affine[:3, 3]), matrix(affine[:3, :3] / lengths))
    except GeometryError as error:
        return GeometryError(f"{name}: {error}")
    return None


def _check_agreement(forms: Forms, size: tuple[int, int, int], *, rounded: bool) -> float:
    """Return by how many mm the two forms place a corner differently, at most."""
    corners = np.array([[*index, 1] for index in product(*((0, length - 1) for length in size))], dtype=float)
    by_sform, by_qform = (corners @ (_RAS_TO_LPS @ affine).T for affine in (forms.sform, forms.qform))
    distances = np.linalg.norm(by_sform - by_qform, axis=1)
    worst = int(np.argmax(distances))
    extent = math.hypot(*(length * step for length, step in zip(size, forms.spacing, strict=True)))
    allowed = _ROUNDED_DISAGREEMENT_VOXELS if rounded else _DISAGREEMENT_VOXELS
    tolerance = allowed * min(forms.spacing) + _rounding_angle(forms.qform) * extent
    if distances[worst] > tolerance:
        raise ImageReadError(
            "the header says two different things about where the image lies: "
            f"the sform ({_code(forms.sform_code)}) puts voxel {tuple(map(int, corners[worst, :3]))} at "
            f"(L, P, S) = {_text(by_sform[worst])} mm, the qform ({_code(forms.qform_code)}) at "
            f"{_text(by_qform[worst])} mm, {distances[worst]:.3g} mm apart. Find out which one is right and set the "
            "code of the other to 0, for example with nibabel: image.set_qform(None) keeps the sform, "
            "image.set_sform(None) the qform"
        )
    return float(distances[worst])


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


def _rotation(quaternion: tuple[float, ...]) -> npt.NDArray[np.float64]:
    b, c, d = quaternion
    rest = 1 - (b * b + c * c + d * d)
    if rest < 1e-7:  # as the NIfTI library does
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = math.sqrt(rest)
    return np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ])  # fmt: skip


def _quaternion(rotation: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return b, c, d of a rotation matrix, with a >= 0."""
    # The matrix of Bar-Itzhack, whose eigenvector to the largest eigenvalue is the quaternion, well-conditioned always.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array([
        [xx - yy - zz, xy + yx, xz + zx, zy - yz],
        [xy + yx, yy - xx - zz, yz + zy, xz - zx],
        [xz + zx, yz + zy, zz - xx - yy, yx - xy],
        [zy - yz, xz - zx, yx - xy, xx + yy + zz],
    ]) / 3  # fmt: skip
    b, c, d, a = np.linalg.eigh(symmetric)[1][:, 3]
    sign = -1.0 if a < 0 else 1.0
    return float(sign * b), float(sign * c), float(sign * d)


def _new_forms(volume: Volume) -> Forms:
    """Return an sform and, if it can hold the direction, a qform for a volume."""
    ras = _LPS_TO_RAS @ volume.affine
    rotation = ras[:3, :3] / np.linalg.norm(ras[:3, :3], axis=0)
    factor = -1.0 if np.linalg.det(rotation) < 0 else 1.0
    rotation[:, 2] *= factor
    both = Forms(
        qform_code=1, sform_code=1, factor=factor, spacing=tuple(volume.spacing),
        quaternion=(*_quaternion(rotation), *ras[:3, 3]), rows=tuple(ras[:3].ravel()),
    )  # fmt: skip
    if _places(both, volume):
        return both
    # a quaternion cannot hold a direction that is not orthonormal to the last digit (cosines printed with six)
    alone = Forms(
        qform_code=0, sform_code=1, factor=factor, spacing=both.spacing, quaternion=both.quaternion, rows=both.rows
    )
    if _places(alone, volume):
        return alone
    raise ImageWriteError(
        f"NIfTI cannot hold where this volume lies (origin {volume.origin} mm) to a thousandth of a voxel; write "
        ".nrrd or .mha"
    )


def _places(forms: Forms, volume: Volume) -> bool:
    """Return whether forms, stored in float32, place the voxels of a volume where they are, for every reader."""

    def stored(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(float(np.float32(value)) for value in values)

    kept = Forms(
        qform_code=forms.qform_code, sform_code=forms.sform_code, factor=forms.factor, spacing=stored(volume.spacing),
        quaternion=stored(forms.quaternion), rows=stored(forms.rows),
    )  # fmt: skip
    try:
        read = _placement(kept, volume.size)
        lengths = np.linalg.norm(read[:3, :3], axis=0)
        grid = Volume(volume.voxels, vector(kept.spacing), vector(read[:3, 3]), matrix(read[:3, :3] / lengths))
        if not grid.same_grid(volume):
            return False
    except (GeometryError, ImageReadError):
        return False
    return True


def _label_extension(labels: LabelNames) -> bytes:
    """Return the names of label values as a header extension, padded to a multiple of 16 bytes."""
    lines = [
        f'<Label Key={quoteattr(str(value))} Red="{red / 255:.6f}" Green="{green / 255:.6f}" Blue="{blue / 255:.6f}" '
        f'Alpha="1"><![CDATA[{name.replace("]]>", "]] >")}]]></Label>'
        for value, (name, (red, green, blue)) in labels.items()
    ]
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<CaretExtension>\n<VolumeInformation Index="0">\n<LabelTable>\n'
        '<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0"><![CDATA[???]]></Label>\n'
        + "\n".join(lines)
        + "\n</LabelTable>\n<VolumeType><![CDATA[Label]]></VolumeType>\n</VolumeInformation>\n</CaretExtension>\n"
    ).encode()
    length = -(-(len(text) + 8) // 16) * 16
    return struct.pack("<2i", length, _LABEL_EXTENSION) + text.ljust(length - 8, b"\0")


def _code(code: int) -> str:
    return f"code {code}, {_CODE_NAMES[code]}" if code in _CODE_NAMES else f"code {code}"


def _text(values: npt.ArrayLike) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values, dtype=float)[:3]) + ")"

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
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np

from KDSegmentatorLib.errors import ImageReadError, ImageWriteError
from KDSegmentatorLib.geometry import Volume, check_size, matrix, vector
from KDSegmentatorLib.io.nifti_forms import Forms, forms_of, placement, places
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
_LABEL_EXTENSION = 0
"""TotalSegmentator's; nibabel cannot unpack 30, Caret's own."""

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


def read_nifti_header(path: Path) -> Header:
    """Return the header of a NIfTI image, of one volume or a series.

    Raises:
        GeometryError: the spacing is not positive, the axes are sheared, or there are too many voxels.
        ImageReadError: not NIfTI, not 3-D, not one number a voxel, not mm, the intensities have no finite scale, sform
            and qform disagree, or neither is given.
    """
    header, _, note = _read(path)
    if note:
        _log.warning("%s: %s", path.name, note)
    return header


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
    if forms is None or not places(forms, volume):
        forms = forms_of(volume)
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


def _read(path: Path) -> tuple[Header, Forms, str]:
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
    affine, note = placement(forms, size)
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
    return header, forms, note


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

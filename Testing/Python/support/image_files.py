"""Small image files for tests, good ones and ones with a field changed."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import write_volume

QCODE, SCODE, PIXDIM, SROW = 252, 254, 80, 280
"""Where fields of a NIfTI header lie."""

NRRD = {
    "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "2 3 4",
    "space directions": "(1,0,0) (0,1,0) (0,0,2)", "endian": "little", "encoding": "raw", "space origin": "(1,2,3)",
}  # fmt: skip
META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "ElementSpacing": "1 1 2", "Offset": "1 2 3", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "DimSize": "2 3 4",
    "ElementType": "MET_SHORT",
}  # fmt: skip
PIXELS = np.arange(24, dtype="<i2").tobytes()


def scan(dtype: str = "int16", shape: tuple[int, int, int] = (4, 5, 6), **geometry: Any) -> Volume:
    voxels = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    return Volume(voxels, **{"spacing": (0.7, 1.1, 3.0), "origin": (-12.5, 20.25, 1033.5), **geometry})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def nifti(path: Path, *fields: tuple[int, str, Any], order: str = "<") -> Path:
    """Write a good NIfTI file, then overwrite fields of its header: (byte offset, struct format, values)."""
    plain = path.with_name("plain.nii")
    write_volume(scan(), plain)
    data = bytearray(plain.read_bytes())
    plain.unlink()
    if order == ">":
        _swap(data)
    for offset, form, values in fields:
        struct.pack_into(f"{order}{form}", data, offset, *(values if isinstance(values, tuple) else (values,)))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def _swap(data: bytearray) -> None:
    for offset, form in ((0, "i"), (40, "8h"), (70, "2h"), (76, "8f"), (108, "3f"), (252, "2h"), (256, "18f")):
        struct.pack_into(f">{form}", data, offset, *struct.unpack_from(f"<{form}", data, offset))
    data[352:] = np.frombuffer(bytes(data[352:]), "<i2").astype(">i2").tobytes()


def nrrd(path: Path, **changes: str | None) -> Path:
    fields = {name: value for name, value in {**NRRD, **changes}.items() if value is not None}
    header = "NRRD0004\n# comment\n" + "".join(f"{name}: {value}\n" for name, value in fields.items())
    path.write_bytes(header.encode() + b"\n" + PIXELS)
    return path


def metaimage(path: Path, **changes: str | None) -> Path:
    fields = {
        name: value for name, value in {**META, "ElementDataFile": "LOCAL", **changes}.items() if value is not None
    }
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    path.write_bytes("".join(f"{name} = {value}\n" for name, value in fields.items()).encode() + PIXELS)
    return path

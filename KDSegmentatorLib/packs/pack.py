"""A student pack on disk: open it, read its parts checked by hash, verify it completely."""

from __future__ import annotations

import functools
import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.io.files import CHUNK_BYTES
from KDSegmentatorLib.packs.array_files import Probe, read_head, read_probe
from KDSegmentatorLib.packs.manifest import (
    MAXIMUM_FILE_BYTES,
    MAXIMUM_MANIFEST_BYTES,
    FileRecord,
    Manifest,
    Precision,
    ReducedFormat,
    ReducedPrecision,
)
from KDSegmentatorLib.packs.manifest_file import read_manifest
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.onnx_check import check_onnx
from KDSegmentatorLib.packs.onnx_sizes import check_sizes

_REMEDY = "install the pack again from an intact copy"


@dataclass(frozen=True, eq=False)
class Head:
    """The network's last 1x1x1 convolution, applied once at the very end.

    Attributes:
        weight: (labels with background, features); row v is label value v.
        bias: (labels with background,).
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, repr=False)
class StudentPack:
    """A student, from :func:`open_pack`.

    Attributes:
        manifest: what the pack says about itself.
        folder: where its files are.
        manifest_sha256: hash of ``manifest.json``, which holds the hashes of all other files: it identifies the pack.
    """

    manifest: Manifest
    folder: Path
    manifest_sha256: str

    def __repr__(self) -> str:
        """Return id, version and folder: a manifest has thousands of entries."""
        return f"StudentPack({self.manifest.id!r}, version={self.manifest.version!r}, folder={str(self.folder)!r})"

    def body(self, precision: Precision = "float32") -> bytes:
        """Return the network without its last layer, an ONNX model.

        Args:
            precision: number format that it is going to be run in.

        Raises:
            PackError: the pack does not have this precision, or the file is missing or not the one that the manifest
                describes.
        """
        if precision == "float32":
            return self.read(self.manifest.network.body)
        return self.read(self.reduced(precision).body)

    def reduced(self, precision: ReducedFormat) -> ReducedPrecision:
        """Return what the pack says about a reduced precision.

        Raises:
            PackError: it does not have it.
        """
        for reduced in self.manifest.network.reduced_precisions:
            if reduced.precision == precision:
                return reduced
        raise PackError(
            f"{self.manifest.id} has no {precision} network: it was not exported with one, or the accuracy did not hold"
        )

    def probe(self) -> Probe | None:
        """Return the window that engines are checked with; None if the pack has none.

        Raises:
            PackError: the file is missing, not the one that the manifest describes, or does not fit the window.
        """
        name = self.manifest.network.probe
        if name is None:
            return None
        patch, rows = self.manifest.windows.patch_size, len(self.manifest.labels) + 1
        return read_probe(self.read(name), patch, rows, f"{self.folder / name}")

    def head(self) -> Head:
        """Return the network's last layer in float32.

        Raises:
            PackError: the file is missing, not the one that the manifest describes, or does not fit the labels.
        """
        network = self.manifest.network
        rows = len(self.manifest.labels) + 1
        weight, bias = read_head(self.read(network.head), rows, network.features, f"{self.folder / network.head}")
        return Head(weight, bias)

    def read(self, name: str) -> bytes:
        """Return a file of the pack. The bytes that are returned are the bytes that were hashed.

        Args:
            name: one of ``manifest.files``.

        Raises:
            PackError: no such file, or not the one that the manifest describes.
        """
        record = self.manifest.files.get(name)
        if record is None:
            raise PackError(f"the pack {self.manifest.id} has no file {name!r}")
        path = self.folder / name
        content = b"".join(_chunks(path, record.size))
        _compare(path, FileRecord(size=len(content), sha256=hashlib.sha256(content).hexdigest()), record)
        return content


@functools.lru_cache(maxsize=64)
def _manifest(text: str, where: str) -> Manifest:
    """Return a manifest that was read before: the panel lists the packs whenever it is opened."""
    return read_manifest(text, where)


def open_pack(folder: Path | str) -> StudentPack:
    """Open a pack's folder: check the manifest, and that its files are there with the right sizes.

    Hashes are checked when a part is read; :func:`verify_pack` checks everything.

    Raises:
        PackError: the folder is not a pack, or a file is missing or has another size.
        ManifestError: the manifest is not valid.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise PackError(f"{folder} is not a folder; give a pack's folder, with a {MANIFEST_NAME} in it")
    content = b"".join(_chunks(path, MAXIMUM_MANIFEST_BYTES))
    if len(content) > MAXIMUM_MANIFEST_BYTES:
        raise PackError(f"{path} is larger than {MAXIMUM_MANIFEST_BYTES:,} bytes, which no manifest is; {_REMEDY}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PackError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); {_REMEDY}") from None
    manifest = _manifest(text, str(path))
    for name, record in manifest.files.items():
        size = _regular_size(folder / name)
        if size != record.size:
            raise PackError(f"{folder / name} has {size:,} bytes, {record.size:,} are listed; {_REMEDY}")
    return StudentPack(manifest=manifest, folder=folder, manifest_sha256=hashlib.sha256(content).hexdigest())


def verify_pack(pack: StudentPack) -> None:
    """Check everything that can be checked without running the network.

    The manifest is unchanged, all files have their size and SHA-256, there are no others and no links, the body is one
    self-contained ONNX model of the stated operator set that takes no more than ``MAXIMUM_LIVE_BYTES`` for a window (as
    are its versions in other number formats), and head and probe fit labels, features and window.

    Raises:
        PackError: something is not as it has to be; the message names the file.
        ManifestError: the manifest was replaced by one that is not valid.
    """
    _check_listing(pack)
    if open_pack(pack.folder).manifest_sha256 != pack.manifest_sha256:
        raise PackError(f"{pack.folder / MANIFEST_NAME} changed while it was in use; open the pack again")
    network = pack.manifest.network
    bodies = {network.body, *(reduced.body for reduced in network.reduced_precisions)}
    for name, record in pack.manifest.files.items():
        if name not in bodies:  # those are hashed below, when they are read
            path = pack.folder / name
            _compare(path, describe_file(path), record)
    for name in sorted(bodies):
        data = pack.read(name)
        summary = check_onnx(data, str(pack.folder / name))
        check_sizes(data, pack.manifest.windows.patch_size, str(pack.folder / name))
        if summary.opset != network.opset:
            raise PackError(
                f"{pack.folder / name} uses operator set {summary.opset}, the manifest says {network.opset}; export "
                "the pack again"
            )
    pack.head()
    pack.probe()


def describe_file(path: Path | str) -> FileRecord:
    """Return size and SHA-256 of a file, as a manifest lists them.

    Raises:
        PackError: the file is missing, not a regular file, not readable, or larger than ``MAXIMUM_FILE_BYTES``.
    """
    path = Path(path)
    digest = hashlib.sha256()
    size = 0
    for chunk in _chunks(path, MAXIMUM_FILE_BYTES):
        digest.update(chunk)
        size += len(chunk)
    if size > MAXIMUM_FILE_BYTES:
        raise PackError(f"{path} is larger than {MAXIMUM_FILE_BYTES:,} bytes, the limit for a file of a pack")
    return FileRecord(size=size, sha256=digest.hexdigest())


def _check_listing(pack: StudentPack) -> None:
    listed = {MANIFEST_NAME, *pack.manifest.files}
    try:
        found = sorted(entry.name for entry in pack.folder.iterdir())
    except OSError as error:
        raise PackError(f"{pack.folder} cannot be read ({error.strerror}); {_REMEDY}") from error
    for name in found:
        if name not in listed:
            raise PackError(f"{pack.folder / name} is not listed in the pack's manifest; remove it")


def _compare(path: Path, found: FileRecord, record: FileRecord) -> None:
    if found != record:
        raise PackError(
            f"{path} is not the file that the manifest lists: it has {found.size:,} bytes with the SHA-256 "
            f"{found.sha256[:12]}..., listed are {record.size:,} bytes with {record.sha256[:12]}.... It is damaged "
            f"or was changed; {_REMEDY}"
        )


def _regular_size(path: Path) -> int:
    """Return the size of a file that is neither a link nor a device (reading a pipe would wait for ever)."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise PackError(f"{path} is missing; {_REMEDY}") from None
    except OSError as error:
        raise PackError(f"{path} cannot be read ({error.strerror}); {_REMEDY}") from error
    if not stat.S_ISREG(status.st_mode):
        raise PackError(f"{path} is not a regular file (a link, a folder or a device); {_REMEDY}")
    return status.st_size


def _chunks(path: Path, limit: int) -> Iterator[bytes]:
    """Yield a file's bytes; stops after one byte more than the limit, so that the caller sees that there are more."""
    _regular_size(path)
    try:
        with path.open("rb") as file:
            yield from _read_up_to(file, limit + 1)
    except OSError as error:
        raise PackError(f"{path} cannot be read ({error.strerror}); {_REMEDY}") from error


def _read_up_to(file: BinaryIO, count: int) -> Iterator[bytes]:
    while count > 0 and (chunk := file.read(min(CHUNK_BYTES, count))):
        count -= len(chunk)
        yield chunk

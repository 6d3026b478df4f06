"""Decoding of pixel data; what is compressed is decoded in a process of its own.

Foreign bytes can break the native code that decodes them. The process, ``python -m
KDSegmentatorLib.dicom.decoding``, has a limit of memory, and of time for each image. It gets the files as JSON on its
standard input. For each image it writes a line of JSON, ``{"type": "<u2", "shape": [512, 512]}``, and the values; or
``{"error": "..."}``, and ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt
import psutil
from pydicom import dcmread
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID

from KDSegmentatorLib.errors import ImageReadError, MissingPackageError

MEMORY_BYTES = 2 << 30
"""What the process may use beside 16 bytes for each pixel of an image; it needs 0.2 GB."""

SECONDS_AN_IMAGE = 60.0
"""An image of 512 x 512 takes 0.05 s; the limit is for what never ends, on the slowest computer."""

_BYTES_A_PIXEL = 16
_WATCH_SECONDS = 0.1
_LONGEST_LINE = 1 << 16
_TYPES = {"|i1", "|u1", "<i2", "<u2", "<i4", "<u4"}


class DecodingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A file whose images are wanted.

    Attributes:
        path: of the file.
        frames: from 0, in the order that is wanted.
        deflated: whether all of the file is deflated.
    """

    path: str
    frames: tuple[int, ...]
    deflated: bool = False


class _Image(msgspec.Struct, frozen=True):
    """The line before an image's values, or the last line."""

    type: str = ""
    shape: tuple[int, ...] = ()
    error: str = ""


def check_decodable(syntax: UID) -> None:
    """Check that images of a compressed transfer syntax can be decoded here.

    Raises:
        ImageReadError: the syntax is not for images.
        MissingPackageError: its decoder is not installed.
    """
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ImageReadError(
            f"the images are stored as {syntax.name}, which is not for volumes; export the series uncompressed"
        ) from error
    if not decoder.is_available:
        raise MissingPackageError(
            f"the images are compressed as {syntax.name}, whose decoder is not installed: pip install "
            "'kdsegmentator[dicom-codecs]', or export the series uncompressed"
        )


def decoded(requests: Iterable[DecodingRequest]) -> Iterator[npt.NDArray[Any]]:
    """Yield the stored values (row, column) of each image, in this process.

    Raises:
        Exception: of any kind, if pixel data is missing, truncated or damaged.
    """
    for request in requests:
        source = dcmread(request.path) if request.deflated else request.path  # pydicom seeks in the file otherwise
        yield from iter_pixels(source, indices=request.frames)


def decoded_apart(requests: Sequence[DecodingRequest], shape: tuple[int, int]) -> Iterator[npt.NDArray[Any]]:
    """Yield the stored values (row, column) of each image, decoded in a process of its own.

    Args:
        requests: the files.
        shape: of every image.

    Raises:
        ValueError: the process failed, crashed, or exceeded its limits.
    """
    process = subprocess.Popen(  # noqa: S603 - a program of our own, no shell
        [sys.executable, "-m", __name__],
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for mypy
    guard = _Guard(process, MEMORY_BYTES + _BYTES_A_PIXEL * shape[0] * shape[1])
    try:
        with suppress(BrokenPipeError):  # it has ended, which is noticed when it is read
            process.stdin.write(msgspec.json.encode(requests))
            process.stdin.close()
        for request in requests:
            for _ in request.frames:
                yield _received(process.stdout, guard, shape)
                guard.image_is_there()
    finally:
        guard.end()


class _Guard:
    """Ends a process that takes more memory, or more time for an image, than it may."""

    def __init__(self, process: subprocess.Popen[bytes], memory: int) -> None:
        self.reason = ""
        self._process = process
        self._memory = memory
        self._deadline = time.monotonic() + SECONDS_AN_IMAGE
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="KDSegmentator decoding", daemon=True)
        self._thread.start()

    def image_is_there(self) -> None:
        """Allow the time for another image."""
        self._deadline = time.monotonic() + SECONDS_AN_IMAGE

    def end(self) -> None:
        """End the process."""
        self._done.set()
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _watch(self) -> None:
        with suppress(psutil.Error):
            watched = psutil.Process(self._process.pid)
            while not self._done.wait(_WATCH_SECONDS):
                if watched.memory_info().rss > self._memory:
                    self.reason = f"it takes more than {self._memory:,} bytes of memory"
                elif time.monotonic() > self._deadline:
                    self.reason = f"it takes more than {SECONDS_AN_IMAGE:g} s"
                if self.reason:
                    self._process.kill()
                    return


def _received(stream: IO[bytes], guard: _Guard, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Return the next image that the process writes.

    Raises:
        ValueError: it wrote an error, or none that is whole.
    """
    try:
        image = msgspec.json.decode(stream.readline(_LONGEST_LINE), type=_Image)
    except msgspec.DecodeError:
        image = _Image(error=guard.reason or "the decoder crashed")
    if not image.error and (image.shape != shape or image.type not in _TYPES):
        image = _Image(error=f"{image.type} of shape {image.shape}, the header says {shape}")
    if image.error:
        raise ValueError(image.error)
    size = shape[0] * shape[1] * np.dtype(image.type).itemsize
    content = stream.read(size)
    if len(content) < size:
        raise ValueError(guard.reason or "the decoder crashed")
    return np.frombuffer(content, dtype=image.type).reshape(shape)


def _environment() -> dict[str, str]:
    """Return the variables of the process: it finds this library, and starts no threads, which take address space."""
    places = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(places),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def main() -> int:
    """Decode what standard input names, onto standard output."""
    output = sys.stdout.buffer
    requests = msgspec.json.decode(sys.stdin.buffer.read(), type=list[DecodingRequest])
    _limit_memory()
    try:
        for values in decoded(requests):
            image = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
            output.write(msgspec.json.encode(_Image(type=image.dtype.str, shape=image.shape)) + b"\n")
            output.write(image.data)
            output.flush()
    except Exception as error:  # decoders raise nearly everything
        output.write(
            msgspec.json.encode(_Image(error=f"{type(error).__name__}: {error}"[: _LONGEST_LINE // 8])) + b"\n"
        )
        return 1
    return 0


def _limit_memory() -> None:
    """Let the system refuse what would exceed the limit, where it can; elsewhere the watching process ends this one."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        most = psutil.Process().memory_info().vms + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    sys.exit(main())

"""What a worker is asked to do, as a file in the job's folder.

Nothing here imports numpy: the worker reads its request before it sets the number of threads that numpy looks at.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from KDSegmentatorLib.errors import JobError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.strict_json import FieldError, Rule, Rules, build, parse

PROTOCOL_VERSION = 1
"""Of requests, lines and results; both processes have to have the same."""

REQUEST_NAME = "request.json"
"""The request's file in the job's folder."""

INPUT_NAME = "input.npy"
"""The volume that is handed over in the job's folder."""

CANCEL_NAME = "cancel"
"""A file of this name in the job's folder asks the worker to stop."""

STDIN_OPTION = "--until-stdin-closes"
"""Tells the worker that its standard input is a pipe, and to stop when nobody holds the other end any more."""

Suffix = Literal[".nii.gz", ".nii", ".nrrd", ".mha"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to segment, whatever the size and the volume.

    Attributes:
        task: the family, for example ``hippocampus``.
        user_packs: folder of the packs that the user installed (``str(PackStore().user_folder)``).
        shipped_packs: folder of the packs that came with KDSegmentator (``str(PackStore().shipped_folder)``).
        engine: ``openvino``, ``onnxruntime``, or ``auto`` for the fastest that gives the right answer here.
        precision: ``float32``, ``bfloat16``, ``int8`` or ``auto``.
        device: ``cpu``, ``cuda``, ... or ``auto``.
        threads: CPU threads; None takes what the machine allows.
        mirroring: average over mirrored windows.
        labels: names of the structures to keep; None keeps all.
        entropy: also compute the entropy map (bits).
        check_input: refuse volumes that do not fit the pack: label maps, another modality, another field of view.
        region: ``given`` if the volumes show nothing but the region already: the earlier stage of a chain is left out.
    """

    task: str
    user_packs: str
    shipped_packs: str
    engine: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    mirroring: bool = False
    labels: tuple[str, ...] | None = None
    entropy: bool = False
    check_input: bool = True
    region: Literal["given"] | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentRequest:
    """Segment one volume with one size or several, in this order.

    Attributes:
        settings: how.
        sizes: ``x1`` (the teacher), ``x1/2``, ...; ``auto`` for the best that fits time and memory.
        input: absolute path of an image file, or :data:`INPUT_NAME` for a volume that is handed over in the job's
            folder.
    """

    settings: Settings
    sizes: tuple[str, ...]
    input: str = INPUT_NAME


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """Segment files of a folder with one size.

    Attributes:
        settings: how.
        size: ``x1``, ``x1/2``, ...; ``auto`` for each volume's own.
        input_folder: absolute path.
        inputs: the files, relative to ``input_folder`` with ``/``
            (:func:`KDSegmentatorLib.jobs.batch_files.find_scans`).
        output_folder: absolute path; the results lie in it as their inputs lie in ``input_folder``.
        suffix: format of the label maps.
        resume: leave out the files that have a result already, made from the same voxels with the same pack and
            settings.
    """

    settings: Settings
    size: str
    input_folder: str
    inputs: tuple[str, ...]
    output_folder: str
    suffix: Suffix = ".nii.gz"
    resume: bool = True


Request = SegmentRequest | BatchRequest

_RULES: Rules = {
    (Settings, "threads"): Rule(minimum=1),
    (Settings, "labels"): Rule(min_items=1),
    (SegmentRequest, "sizes"): Rule(min_items=1, unique=True),
    (BatchRequest, "inputs"): Rule(min_items=1, unique=True),
}


@dataclass(frozen=True, kw_only=True)
class _RequestFile:
    """The document: one of the two kinds."""

    protocol: int
    segment: SegmentRequest | None = None
    batch: BatchRequest | None = None


def write_request(request: Request, folder: Path) -> None:
    """Write a request into a job's folder.

    Raises:
        JobError: the request makes no sense; the message names the field.
        ImageWriteError: the file could not be written.
    """
    text = request_text(request)
    parse_request(text, "the segmentation's settings")
    with atomic_output(folder / REQUEST_NAME) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_request(path: Path) -> Request:
    """Return the request in a file.

    Raises:
        JobError: the file cannot be read, or is not a request of this version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path} cannot be read ({error}); start the segmentation again") from error
    return parse_request(text, str(path))


def request_text(request: Request) -> str:
    """Return a request as JSON text."""
    kind = "segment" if isinstance(request, SegmentRequest) else "batch"
    document = {"protocol": PROTOCOL_VERSION, kind: dataclasses.asdict(request)}
    return json.dumps(document, indent=2) + "\n"


def parse_request(text: str, where: str) -> Request:
    """Return the request that a JSON text describes.

    Args:
        text: the JSON document.
        where: what it is, for error messages.

    Raises:
        JobError: not JSON, another version, an unknown or missing field, or a value that makes no sense.
    """
    try:
        document = parse(text)
        if isinstance(document, dict):
            check_protocol(document.get("protocol"))
        file = build(_RequestFile, document, _RULES, Rule())
    except FieldError as error:
        raise JobError(f"{where}: {error}") from None
    request = file.segment or file.batch
    if request is None or (file.segment and file.batch):
        raise JobError(f"{where}: must have one of 'segment' and 'batch'")
    return request


def check_protocol(version: object) -> None:
    """Check that the other process speaks the same version.

    Raises:
        JobError: it does not.
    """
    if version != PROTOCOL_VERSION:
        raise JobError(
            "two versions of KDSegmentator are mixed (it was probably updated just now): restart the application and "
            f"try again (protocol {version!r} instead of {PROTOCOL_VERSION})"
        )

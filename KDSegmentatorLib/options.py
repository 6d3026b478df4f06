"""RunOptions: the one form of a user's choices, from command line, panel and Python to the worker and the record.

Nothing here imports numpy: the worker reads its options before it sets the number of threads that numpy looks at.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from KDSegmentatorLib.errors import InvalidSettingsError

AUTOMATIC = "auto"
ENGINES = ("openvino", "onnxruntime")
PRECISIONS: tuple[Literal["int8", "bfloat16", "float32"], ...] = ("int8", "bfloat16", "float32")
"""Fastest first."""

DEVICES = ("cpu", "cuda", "directml", "coreml", "gpu", "npu")
REGIONS = ("", "given")
MOST_THREADS = 1024
"""More than any machine has cores; beyond it threads cost memory without end."""

_SIZE = re.compile(r"[xX]?1(/[1-9][0-9]{0,2})?")


class RunOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to segment, whatever the volume.

    Attributes:
        size: ``x1`` (the teacher), ``x1/2``, ``x1/4``, ... (also ``1/4`` and ``X1/4``); empty for the size that the
            task's packs recommend; ``auto`` chooses by this computer's hardware, once.
        engine: ``openvino``, ``onnxruntime``, or ``auto`` for the fastest that gives the right answer here.
        precision: ``float32``, ``bfloat16``, ``int8`` or ``auto``; packs say which of them keep their accuracy.
        device: ``cpu``, ``cuda``, ``directml``, ``coreml``, ``gpu``, ``npu`` or ``auto``.
        threads: CPU threads, from 1 on; None takes what the machine allows.
        mirroring: average over mirrored windows.
        labels: names (or values, as text) of the structures to keep; empty keeps all.
        entropy: also compute the entropy map (bits).
        probabilities: names (or values, as text) of the structures whose probability is wanted.
        check_input: refuse volumes that do not fit the pack: label maps, another modality, another field of view.
        region: ``given`` if the volumes show nothing but the region already, with 0 everywhere else, as skull-stripped
            brains do: the earlier stage of a chain is left out. Empty finds the region.

    Raises:
        InvalidSettingsError: a value makes no sense; the message names the field and what is possible.

    Examples:
        >>> RunOptions(size="1/4", labels=("Hippocampus-left",)).size
        'x1/4'
    """

    size: str = ""
    engine: str = AUTOMATIC
    precision: str = AUTOMATIC
    device: str = AUTOMATIC
    threads: int | None = None
    mirroring: bool = False
    labels: tuple[str, ...] = ()
    entropy: bool = False
    probabilities: tuple[str, ...] = ()
    check_input: bool = True
    region: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "size", _size(self.size))
        for name, known in (
            ("engine", (AUTOMATIC, *ENGINES)),
            ("precision", (AUTOMATIC, *PRECISIONS)),
            ("device", (AUTOMATIC, *DEVICES)),
            ("region", REGIONS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise InvalidSettingsError(f"there is no {name} {value!r}; there are: {', '.join(map(repr, known))}")
        check_threads(self.threads)
        for name in ("mirroring", "entropy", "check_input"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidSettingsError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in ("labels", "probabilities"):
            msgspec.structs.force_setattr(self, name, _names(name, getattr(self, name)))


def check_threads(threads: object) -> None:
    """Check a number of threads; None stands for all that the machine allows.

    Raises:
        InvalidSettingsError: it is not a whole number from 1 to :data:`MOST_THREADS`.
    """
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise InvalidSettingsError(f"threads must be a whole number from 1 to {MOST_THREADS}, got {threads!r}")


def _size(size: object) -> str:
    """Return a size as packs write it: ``x1/4`` for ``1/4`` and ``X1/4``."""
    if isinstance(size, str) and size in ("", AUTOMATIC):
        return size
    if not isinstance(size, str) or _SIZE.fullmatch(size) is None:
        raise InvalidSettingsError(
            f"there is no size {size!r}; give 'x1', 'x1/2', 'x1/4', ..., 'auto', or nothing for the recommended one"
        )
    return "x" + size.lower().removeprefix("x")


def _names(field: str, names: object) -> tuple[str, ...]:
    """Return names of structures without those given twice; whole numbers, which are their values, become text."""
    if isinstance(names, str):
        names = (names,)  # or its letters would be taken for names
    if not isinstance(names, (tuple, list)):
        raise InvalidSettingsError(f"{field} must be a list of names like ['Hippocampus'], got {names!r}")
    for name in names:
        if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
            raise InvalidSettingsError(f"{field} must hold names of structures, or their values, got {name!r}")
    return tuple(dict.fromkeys(str(name) for name in names))

"""RunOptions: the one form of a user's choices, from command line, panel and Python to the worker and the record.

Nothing here imports numpy: the worker reads its options before it sets the number of threads that numpy looks at.
"""

from __future__ import annotations

import re
from typing import Any, Literal, SupportsIndex, TypeVar

import msgspec

from KDSegmentatorLib.arguments import check_known, meant
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
_Options = TypeVar("_Options")


class _NamedFields(msgspec.StructMeta):
    """Names a field that is not there in a named error, where msgspec would raise a TypeError."""

    def __call__(self: type[_Options], *arguments: Any, **fields: Any) -> _Options:
        if arguments:
            raise InvalidSettingsError(f"name the options: RunOptions(size={arguments[0]!r})")
        check_known(fields, self.__struct_fields__, self.__name__)  # type: ignore[attr-defined]
        return super().__call__(**fields)  # type: ignore[misc, no-any-return]


class RunOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, metaclass=_NamedFields):
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
        InvalidSettingsError: there is no such field, or its value makes no sense; the message names the field and what
            is possible.

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
            found = value.lower() if isinstance(value, str) else value
            if found not in known:
                close = meant(value, known) if isinstance(value, str) else ""
                there_are = ", ".join(map(repr, known))
                raise InvalidSettingsError(f"there is no {name} {value!r}{close}; there are: {there_are}")
            msgspec.structs.force_setattr(self, name, found)
        msgspec.structs.force_setattr(self, "threads", check_threads(self.threads))
        for name in ("mirroring", "entropy", "check_input"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidSettingsError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in ("labels", "probabilities"):
            msgspec.structs.force_setattr(self, name, _names(name, getattr(self, name)))


def check_threads(threads: object) -> int | None:
    """Return a number of threads; None stands for all that the machine allows.

    Raises:
        InvalidSettingsError: it is not a whole number from 1 to :data:`MOST_THREADS`.
    """
    if threads is None:
        return None
    number = threads.__index__() if isinstance(threads, SupportsIndex) and not isinstance(threads, bool) else 0
    if not 1 <= number <= MOST_THREADS:
        raise InvalidSettingsError(f"threads must be a whole number from 1 to {MOST_THREADS}, got {threads!r}")
    return number


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

"""Which engine runs a pack: the fastest that gives the right answer on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.engines.candidates import Candidate, find_candidates
from KDSegmentatorLib.engines.compiled_cache import drop_unused, is_sealed
from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.loading import device_name, engine_version, load_engine
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine
from KDSegmentatorLib.engines.self_check import checked_agreement, required_agreement
from KDSegmentatorLib.errors import CancelledError, EngineError, EngineUnavailableError, InsufficientMemoryError
from KDSegmentatorLib.machine.hardware import address_space
from KDSegmentatorLib.options import AUTOMATIC, RunOptions
from KDSegmentatorLib.packs.locations import default_cache_folder
from KDSegmentatorLib.packs.pack import StudentPack

_log = logging.getLogger(__name__)

_ADDRESS_SPACE = 700_000_000
"""Bytes that OpenVINO, onnxruntime and SciPy reserve when they are loaded: 540 MB were too few here, 750 enough."""


@dataclass(frozen=True, kw_only=True)
class ChosenEngine:
    """An engine, ready to run, and why it was taken.

    Attributes:
        engine: loaded with the pack's network.
        reason: one sentence for the user, with what was tried before and did not do.
        loading_seconds: to load and check it, and those that were tried before.
        compiled: whether it took a compiled network from the cache.
    """

    engine: Engine
    reason: str
    loading_seconds: float = 0.0
    compiled: bool = False


def choose_engine(
    pack: StudentPack,
    options: RunOptions | None = None,
    *,
    cache: Path | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> ChosenEngine:
    """Return the best engine for a pack on this machine.

    Whatever computes in less than float32, or not on the CPU, has to give the pack's probe the right labels first.

    Args:
        pack: the student.
        options: engine, precision, device and threads; None leaves all open. What is asked for is never replaced.
        cache: folder for compiled networks and checks; None takes the user's.
        cancelled: asked before each engine is loaded, and while a check computes.

    Raises:
        EngineUnavailableError: nothing here can run the pack the way it is asked for; the message says why.
        EngineError: the engine that was asked for does not load the network, or gives wrong labels.
        InsufficientMemoryError: the network does not fit into memory, or the engines not into the address space.
        CancelledError: ``cancelled`` returned True.
        PackError: a file of the pack is damaged.
    """
    start = time.perf_counter()
    options = options or RunOptions()
    _check_address_space()
    cache = cache or default_cache_folder()
    found = find_candidates(pack.manifest, options)
    rejected = list(found.broken)
    failures = [each for each in found.left_out if each not in rejected]
    for each in rejected:
        _log.warning("%s", each)
    asked = ", ".join(
        f"{name} {value}"
        for name, value in (("engine", options.engine), ("precision", options.precision), ("device", options.device))
        if value != AUTOMATIC
    )
    for candidate in found.usable:
        if cancelled():
            raise CancelledError("cancelled; nothing was written")
        try:
            compiled = is_compiled(pack, candidate, cache)
            engine = _load(candidate, pack, options.threads, cache)
            note = _checked(candidate, engine, pack, cache, cancelled)
        except EngineError as error:
            rejected.append(f"{candidate.title}: {error}")
            _log.warning("%s is left out: %s", candidate.title, error)
            if len(found.usable) == 1:
                remedy = "; leave --engine, --precision and --device out to take what works here" if asked else ""
                raise type(error)(f"{candidate.title}: {error}{remedy}") from error
            continue
        reason = "; ".join([f"{candidate.title}: {candidate.reason}{note}", *(f"not {each}" for each in rejected)])
        _log.info("%s", reason)
        seconds = time.perf_counter() - start
        return ChosenEngine(engine=engine, reason=reason, loading_seconds=seconds, compiled=compiled)
    raise EngineUnavailableError(
        f"{pack.manifest.id} cannot be run here{f' with {asked}' if asked else ''}: "
        f"{'; '.join([*rejected, *failures]) or 'no engine is installed'}"
    )


def is_compiled(pack: StudentPack, candidate: Candidate, cache: Path | None = None) -> bool:
    """Return whether an engine would find the pack's network compiled; see :func:`choose_engine`."""
    if candidate.engine != OpenVinoEngine.name:
        return False
    return is_sealed(_compiled_folder(pack, candidate, cache or default_cache_folder()))


def _compiled_folder(pack: StudentPack, candidate: Candidate, cache: Path) -> Path:
    network = f"{pack.manifest_sha256[:32]}-{candidate.device}-{candidate.precision}"
    return cache / "compiled" / f"openvino-{engine_version(candidate.engine)}" / network


def _load(candidate: Candidate, pack: StudentPack, threads: int | None, cache: Path) -> Engine:
    compiled = None
    if candidate.engine == OpenVinoEngine.name:
        drop_unused(cache / "compiled")
        compiled = _compiled_folder(pack, candidate, cache)
    return load_engine(
        candidate.engine,
        pack.body(candidate.precision),
        patch_size=pack.manifest.windows.patch_size,
        precision=candidate.precision,
        device=candidate.device,
        threads=threads,
        cache=compiled,
    )


def _checked(
    candidate: Candidate, engine: Engine, pack: StudentPack, cache: Path, cancelled: Callable[[], bool]
) -> str:
    """Check an engine with the pack's probe if it needs that; return what to add to the reason.

    Raises:
        EngineError: it gives wrong labels.
    """
    if candidate.precision == "float32" and candidate.device == "cpu":
        return ""
    if pack.manifest.network.probe is None:
        raise EngineError(f"{pack.manifest.id} has no probe to check {candidate.device} with; take the device cpu")
    name = device_name(candidate.engine, candidate.device)
    found = checked_agreement(
        pack,
        engine,
        machine=f"{name} {candidate.engine} {engine_version(candidate.engine)}",
        cache=None if name is None else cache / "self-checks",  # it might be another device the next time
        cancelled=cancelled,
    )
    required = required_agreement(pack, engine)
    if found < required:
        raise EngineError(
            f"it gives {found:.2%} of the probe's voxels the label they have in float32, {required:.2%} are needed"
        )
    return f" ({found:.2%} of the probe as in float32)"


def _check_address_space() -> None:
    """Refuse where loading the libraries would not end: with less, OpenBLAS asks for memory again and again.

    Raises:
        InsufficientMemoryError: too little is left.
    """
    space = address_space()
    if space is not None and space[0] < _ADDRESS_SPACE:
        raise InsufficientMemoryError(
            f"{space[0] / 1e6:.0f} MB are left of this process's address space, which is limited to "
            f"{space[1] / 1e6:.0f} MB; engines need {_ADDRESS_SPACE / 1e6:.0f} MB to be loaded. Raise the limit "
            "(ulimit -v)"
        )

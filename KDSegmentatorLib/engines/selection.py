"""Which engine runs a pack."""

from __future__ import annotations

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.errors import EngineUnavailableError, InvalidSettingsError

AUTOMATIC = "auto"
ENGINE_NAMES = (AUTOMATIC, OnnxRuntimeEngine.name)


def create_engine(body: bytes, *, name: str = AUTOMATIC, threads: int | None = None) -> Engine:
    """Return an engine for a network's body.

    Args:
        body: the ONNX model (:meth:`KDSegmentatorLib.packs.pack.StudentPack.body`).
        name: one of ``ENGINE_NAMES``; a named engine is never replaced by another.
        threads: CPU threads, >= 1; None leaves it to the engine.

    Raises:
        InvalidSettingsError: ``threads`` is not positive.
        EngineUnavailableError: no such engine, or it is not installed.
        EngineError: the engine does not load the network.
    """
    if threads is not None and threads < 1:
        raise InvalidSettingsError(f"threads must be at least 1, got {threads}")
    if name not in ENGINE_NAMES:
        raise EngineUnavailableError(f"there is no engine {name!r}; there are: {', '.join(ENGINE_NAMES)}")
    return OnnxRuntimeEngine(body, threads=threads)

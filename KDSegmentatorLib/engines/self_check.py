"""Does an engine give the pack's own window the labels it should? Asked before it sees a patient's image.

A reduced precision was accepted on the machine where the pack was made. Other processors have other kernels, and a
kernel may be wrong: what counts is what this machine makes of the probe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.head import label_values
from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.array_files import Probe
from KDSegmentatorLib.packs.pack import Head, StudentPack

TOLERANCE = 0.01
"""How far below the agreement on the exporting machine another machine may stay."""

FLOAT32_AGREEMENT = 0.998
"""What float32 has to reach on devices other than the CPU: only the order of sums may differ."""


def agreement(engine: Engine, probe: Probe, head: Head, cancelled: Callable[[], bool] = lambda: False) -> float:
    """Return the share of the probe's foreground voxels that get the label they get in float32.

    Foreground is what either of the two labels; 1.0 if there is none. Numbers that are not finite count as wrong.

    Raises:
        EngineError: the engine failed.
        CancelledError: ``cancelled`` returned True.
    """
    features = engine.run(probe.window, cancelled)[0]
    if not np.isfinite(features).all():
        return 0.0
    found = label_values(head, features)
    foreground = (found > 0) | (probe.labels > 0)
    total = int(np.count_nonzero(foreground))
    return 1.0 if total == 0 else np.count_nonzero((found == probe.labels) & foreground) / total


def required_agreement(pack: StudentPack, engine: Engine) -> float:
    """Return the agreement that an engine has to reach with a pack."""
    if engine.precision == "float32":
        return FLOAT32_AGREEMENT
    return pack.reduced(engine.precision).probe_agreement - TOLERANCE


def checked_agreement(
    pack: StudentPack, engine: Engine, *, machine: str, cache: Path | None, cancelled: Callable[[], bool]
) -> float:
    """Return :func:`agreement` for a pack, measured once for each machine, engine and pack.

    Args:
        pack: has a probe.
        engine: loaded with the pack's body.
        machine: what the result depends on besides: processor or other device, engine version.
        cache: folder to remember the result in; None measures anew. A file that cannot be read or written is ignored.
        cancelled: asked while the engine computes.

    Raises:
        PackError: the pack has no probe, or it is damaged.
        EngineError: the engine failed.
        CancelledError: ``cancelled`` returned True.
    """
    key = json.dumps([machine, engine.name, engine.device, engine.precision, pack.manifest_sha256])
    path = None if cache is None else cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    known = _read(path, key)
    if known is not None:
        return known  # the probe may be as large as a scan: it is only read where it is used
    probe = pack.probe()
    if probe is None:
        raise PackError(f"{pack.manifest.id} has no probe to check an engine with")
    measured = agreement(engine, probe, pack.head(), cancelled)
    _write(path, key, measured)
    return measured


def _read(path: Path | None, key: str) -> float | None:
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        value = content["agreement"]
        return float(value) if content["key"] == key and 0 <= value <= 1 else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(path: Path | None, key: str, value: float) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path) as temporary:
            temporary.write_text(json.dumps({"key": key, "agreement": value}), encoding="utf-8")
    except Exception:  # noqa: S110 - measured again next time
        pass

"""The engines and number formats that a pack is measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.runner import Subject
from kdbench.setting import Setting
from KDSegmentatorLib.engines.candidates import find_candidates
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Precision
from KDSegmentatorLib.packs.pack import StudentPack

_WAYS: tuple[tuple[str, Precision], ...] = (
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("onnxruntime", "float32"),
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run a pack on this machine's processor.

    Attributes:
        engine: its name.
        precision: number format.
        impossible: why it cannot be run so; None if it can.
    """

    engine: str
    precision: Precision
    impossible: str | None

    @property
    def title(self) -> str:
        """For people: ``openvino float32``."""
        return f"{self.engine} {self.precision}"


def ways(pack: StudentPack, *, engine: str | None = None) -> list[Way]:
    """Return how a pack is measured, also what this machine cannot do.

    Args:
        pack: the pack.
        engine: only this one; None for all.
    """
    found = []
    for name, precision in _WAYS:
        if engine not in (None, name):
            continue
        request = RunOptions(engine=name, precision=precision, device="cpu")
        candidates = find_candidates(pack.manifest, request)
        problem = None if candidates.usable else "; ".join(candidates.left_out)
        found.append(Way(engine=name, precision=precision, impossible=problem))
    return found


def segmenting(
    setting: Setting,
    name: str,
    pack: StudentPack,
    scan: Path,
    way: Way,
    *,
    environment: dict[str, str] | None = None,
    facts: dict[str, float] | None = None,
    options: Sequence[str] = (),
    **labels: str,
) -> Subject:
    """Return a subject that segments a file with ``kdseg segment``.

    Args:
        setting: of this run.
        name: of the subject.
        pack: where ``environment`` lets ``kdseg`` find it.
        scan: the file.
        way: engine and precision.
        environment: of the process; None for the benchmark's own packs.
        facts: further figures to keep.
        options: further ones of the command.
        labels: further labels.
    """
    manifest = pack.manifest
    return Subject(
        name=name,
        function="kdbench.segmenting:with_kdseg",
        arguments={
            "scan": str(scan),
            "output": str(output_path(setting, name)),
            "task": manifest.task,
            "size": manifest.size,
            "engine": way.engine,
            "precision": way.precision,
            "options": list(options),
        },
        environment=setting.cache.environment if environment is None else environment,
        labels={
            "size": manifest.size,
            "software": "kdseg",
            "engine": way.engine,
            "precision": way.precision,
            **labels,
        },
        facts={"parameters": manifest.network.parameters, "flops": manifest.network.flops_per_window, **(facts or {})},
        rounds=setting.rounds,
        warm_up=setting.warm_up,
        impossible=way.impossible,
    )


def output_path(setting: Setting, name: str) -> Path:
    """Return where a subject writes its label map."""
    return setting.cache.outputs / f"{name.replace('/', '_').replace(' ', '-').replace(',', '')}.nii.gz"

"""What every network of a family costs: counted from its plans, measured through the library on one held-out case."""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.dataset import read_header
from distillation.evaluation.running_cost import RunningCost, running_cost
from distillation.evaluation.scores import pack_hash
from distillation.network_cost import network_cost
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.files import write_json
from KDSegmentatorLib.machine.hardware import processor_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from distillation.dataset import Case
    from KDSegmentatorLib.packs.pack import StudentPack


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """One network.

    Attributes:
        model: its name.
        parameters: learnable numbers.
        flops: of one window, 2 x multiply-accumulate of all convolutions.
        paper_flops: of one window, as the paper counts (:func:`distillation.network_cost.count_paper_flops`).
        file_bytes: the pack on disk.
        case: name of the case that was run.
        size: of its image, (i, j, k) voxels.
        running: wall time and memory.
        machine: processor and operating system.
        pack_hash: :func:`distillation.evaluation.scores.pack_hash` of the pack; None in files of earlier versions.
    """

    model: str
    parameters: int
    flops: int
    paper_flops: int
    file_bytes: int
    case: str
    size: tuple[int, int, int]
    running: RunningCost
    machine: str
    pack_hash: str | None = None


def measure_family(
    packs: Sequence[tuple[StudentPack, dict[str, Any]]], cases: Sequence[Case], *, threads: int | None = None
) -> list[Efficiency]:
    """Return what every network costs, on the case with the median number of voxels.

    Args:
        packs: with the resolved configuration of their plans.
        cases: held-out cases.
        threads: CPU threads of the engine.

    Raises:
        ExportError: a run failed.
    """
    sizes = [read_header(case.image).size for case in cases]
    voxels = [int(np.prod(size)) for size in sizes]
    middle = int(np.argsort(voxels, kind="stable")[len(voxels) // 2])
    rows = []
    for pack, configuration in packs:
        manifest = pack.manifest
        cost = network_cost(configuration, channels=1, labels=len(manifest.labels) + 1)
        rows.append(
            Efficiency(
                model=f"{manifest.size} {manifest.provenance.method}",
                parameters=cost.parameters,
                flops=cost.flops,
                paper_flops=cost.paper_flops,
                file_bytes=sum(record.size for record in manifest.files.values()),
                case=cases[middle].name,
                size=sizes[middle],
                running=running_cost(pack, cases[middle].image, threads=threads),
                machine=f"{processor_name()}, {platform.system()} {platform.machine()}",
                pack_hash=pack_hash(pack),
            )
        )
    return rows


def write_efficiency(path: Path, rows: Sequence[Efficiency]) -> None:
    """Write the rows as JSON.

    Raises:
        ImageWriteError: the disk is full or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [dataclasses.asdict(row) for row in rows])


def read_efficiency(path: Path) -> list[Efficiency]:
    """Read what :func:`write_efficiency` wrote; a missing file is empty.

    Raises:
        ExportError: the file is not one of ours.
    """
    if not path.is_file():
        return []
    try:
        return [
            Efficiency(**{**row, "size": tuple(row["size"]), "running": RunningCost(**row["running"])})
            for row in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is not a table of costs ({error}); remove it and evaluate again") from error

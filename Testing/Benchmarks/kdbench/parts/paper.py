"""The paper's exact family on one scan, file to file: stock nnU-Net against ours, by engine and number format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdbench.parts.ways import output_path, segmenting, ways
from kdbench.runner import Subject
from kdbench.setting import Setting
from KDSegmentatorLib.packs.names import divisor
from KDSegmentatorLib.packs.pack import StudentPack

STOCK = "nnU-Net"

_STOCK_BYTES = {"x1": 14_000_000_000, "x1/2": 8_950_000_000, "x1/4": 6_490_000_000}
"""What the paper measured on this size of scan: with less free memory it is not tried."""


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield the runs, then the comparison of their label maps."""
    scan = setting.brain_scan()
    sizes = sorted(setting.sizes, key=divisor, reverse=True)  # the quickest first: there is something to see early
    packs = [setting.member(setting.scope.brain, size) for size in sizes]
    yield [subject for pack in packs for subject in (_stock(setting, pack, scan), *_ours(setting, pack, scan))]
    yield [subject for pack in packs for subject in _comparisons(setting, pack)]


def _stock(setting: Setting, pack: StudentPack, scan: Path) -> Subject:
    manifest = pack.manifest
    by_default = 1 if manifest.size == "x1" else 3
    name = _name(pack, STOCK)
    return Subject(
        name=name,
        function="kdbench.segmenting:with_nnunet",
        arguments={
            "scan": str(scan),
            "output": str(output_path(setting, name)),
            "model": str(setting.model_folder(pack)),
        },
        labels={"size": manifest.size, "software": STOCK, "engine": "torch", "precision": "float32"},
        facts={"parameters": manifest.network.parameters, "flops": manifest.network.flops_per_window},
        rounds=by_default if setting.stock_rounds is None else setting.stock_rounds,
        memory_needed=_STOCK_BYTES[manifest.size] if setting.scope.brain.parameters else 0,
    )


def _ours(setting: Setting, pack: StudentPack, scan: Path) -> list[Subject]:
    return [segmenting(setting, _name(pack, way.title), pack, scan, way) for way in ways(pack)]


def _comparisons(setting: Setting, pack: StudentPack) -> list[Subject]:
    """Return what compares our label maps with stock nnU-Net's, where both are there."""
    stock = output_path(setting, _name(pack, STOCK))
    found = []
    for way in ways(pack):
        ours = output_path(setting, _name(pack, way.title))
        if ours.is_file() and stock.is_file():
            found.append(
                Subject(
                    name=f"same labels, {_name(pack, way.title)}",
                    function="kdbench.segmenting:compare",
                    arguments={"first": str(ours), "second": str(stock)},
                    labels={
                        "size": pack.manifest.size,
                        "software": "comparison",
                        "engine": way.engine,
                        "precision": way.precision,
                    },
                )
            )
    return found


def _name(pack: StudentPack, how: str) -> str:
    return f"{pack.manifest.size} {how}"

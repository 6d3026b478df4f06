"""``kdseg segment``: an image file in, a label map and whatever else was asked for out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.advisor.advice import advise
from KDSegmentatorLib.advisor.hardware import detect_hardware
from KDSegmentatorLib.advisor.peak_memory import peak_memory
from KDSegmentatorLib.analysis.overlay import write_overlay
from KDSegmentatorLib.analysis.statistics import IMAGE_UNITS, LabelStatistics, label_statistics, write_statistics
from KDSegmentatorLib.cli.interrupt import Interrupt, listening
from KDSegmentatorLib.cli.outputs import PlannedOutput, Writer, check_outputs, write_together
from KDSegmentatorLib.cli.progress import ProgressLine
from KDSegmentatorLib.cli.table import table
from KDSegmentatorLib.engines.selection import create_engine
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.io.images import SUFFIXES, read_volume, write_volume
from KDSegmentatorLib.packs.catalogue import Family, families, find
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.rules import pack_id
from KDSegmentatorLib.packs.store import PackStore

AUTOMATIC = "auto"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The pack to run, and why if the user left that open."""

    pack: StudentPack
    reason: str | None = None


def run(arguments: argparse.Namespace) -> None:
    """Segment a file; all outputs are written at the end, together or not at all.

    Args:
        arguments: of ``kdseg segment``.

    Raises:
        KDSegmentatorError: see the pipeline, the packs and the image files.
    """
    outputs = _planned_outputs(arguments)
    check_outputs(outputs, arguments.input)
    with listening() as interrupt:
        wanted = _wanted(arguments.pack, arguments.size)
        volume = read_volume(arguments.input)
        interrupt.check()
        choice = _choose(wanted, volume, arguments.mirroring)
        result = _segment(volume, choice.pack, arguments, interrupt)
        statistics = label_statistics(result.volume, result.labels, volume)
        interrupt.check()
        writers = _writers(result, statistics, volume, choice.pack)
        write_together([(output.path, writers[output.option]) for output in outputs])
    if not arguments.quiet:
        print(summary(result, statistics, choice))
        print(f"Wrote {', '.join(str(output.path) for output in outputs)}")


def summary(result: Segmentation, statistics: Sequence[LabelStatistics], choice: Choice) -> str:
    """Return what a user wants to know after a run."""
    record = result.record
    rows = [("Structure", "Volume (ml)")]
    rows += [(row.name, f"{row.volume_ml:.2f}" if row.voxels else "not found") for row in statistics]
    seconds = record.seconds
    memory = peak_memory()
    lines = [
        table(rows, numbers=[1]),
        "",
        f"Time    {seconds['total']:.1f} s (preparing {seconds['preprocess']:.1f}, "
        f"segmenting {seconds['windows']:.1f}, restoring {seconds['restore']:.1f})",
        f"Memory  {memory / 1e9:.2f} GB at the peak" if memory else "Memory  unknown",
        f"Engine  {record.engine}, {record.precision}" + (", mirroring" if record.mirroring else ""),
        f"Pack    {record.pack_id} {record.pack_version}",
    ]
    if choice.reason:
        lines.append(f"Size    {choice.reason}")
    return "\n".join(lines)


def _planned_outputs(arguments: argparse.Namespace) -> list[PlannedOutput]:
    planned = [PlannedOutput(option="OUTPUT", path=arguments.output, suffixes=SUFFIXES)]
    if arguments.statistics is not None:
        planned.append(PlannedOutput(option="--statistics", path=arguments.statistics, suffixes=(".csv",)))
    if arguments.overlay is not None:
        planned.append(PlannedOutput(option="--overlay", path=arguments.overlay, suffixes=(".png",)))
    return planned


def _wanted(task: str, size: str) -> Family | StudentPack:
    """Return the task's packs, or the one of the wanted size.

    Raises:
        PackError: there is none, or it is damaged.
        ManifestError: its manifest is not valid.
    """
    store = PackStore()
    family = next((family for family in families(store.packs()) if family.task == task), None)
    if size == AUTOMATIC and family is not None:
        return family
    for damaged in store.damaged():
        of_task = damaged.id.rpartition("-")[0] == task
        if damaged.id == pack_id(task, size) or (size == AUTOMATIC and of_task):
            raise damaged.error
    return find(store.packs(), task, size)


def _choose(wanted: Family | StudentPack, volume: Volume, mirroring: bool) -> Choice:
    if isinstance(wanted, StudentPack):
        return Choice(pack=wanted)
    advice = advise(wanted, volume, detect_hardware(), mirroring=mirroring)
    return Choice(pack=advice.pack, reason=advice.reason)


def _segment(volume: Volume, pack: StudentPack, arguments: argparse.Namespace, interrupt: Interrupt) -> Segmentation:
    labels = None
    if arguments.labels is not None:
        labels = [int(name) if name.isascii() and name.isdigit() else name for name in arguments.labels]
    engine = create_engine(pack.body(), name=arguments.engine, threads=arguments.threads)
    progress = None if arguments.quiet else ProgressLine(sys.stderr)
    try:
        return segment(
            volume,
            pack,
            engine,
            labels=labels,
            mirroring=arguments.mirroring,
            check_modality=not arguments.any_intensities,
            progress=progress,
            cancel=interrupt.requested,
        )
    finally:
        if progress is not None:
            progress.clear()


def _writers(
    result: Segmentation, statistics: Sequence[LabelStatistics], volume: Volume, pack: StudentPack
) -> dict[str, Writer]:
    """Return what writes each output, by the option that asks for it."""
    manifest = pack.manifest
    unit = "HU" if manifest.modality == "CT" else IMAGE_UNITS
    title = f"{manifest.title} · {manifest.id} {manifest.version} · size {manifest.size}"

    def write_labels(path: Path) -> None:
        write_volume(result.volume, path)

    def write_table(path: Path) -> None:
        write_statistics(statistics, path, intensity_unit=unit)

    def write_picture(path: Path) -> None:
        write_overlay(volume, result.volume, result.labels, path, title=title, modality=manifest.modality)

    return {"OUTPUT": write_labels, "--statistics": write_table, "--overlay": write_picture}

"""``kdseg segment``: an image file in, a label map and whatever else was asked for out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from KDSegmentatorLib.advisor.peak_memory import peak_memory
from KDSegmentatorLib.advisor.selection import Choice
from KDSegmentatorLib.analysis.overlay import write_overlay
from KDSegmentatorLib.analysis.statistics import IMAGE_UNITS, LabelStatistics, label_statistics, write_statistics
from KDSegmentatorLib.cli.interrupt import Interrupt, listening
from KDSegmentatorLib.cli.outputs import PlannedOutput, Writer, check_outputs, write_together
from KDSegmentatorLib.cli.progress import ProgressLine
from KDSegmentatorLib.cli.record import write_record
from KDSegmentatorLib.cli.table import table
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.io.images import SUFFIXES, read_volume, write_volume
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.segmenter import Segmenter

_FORMULA_STARTS = ("=", "+", "-", "@")


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
        segmenter = Segmenter(arguments.pack, arguments.size, engine=arguments.engine, threads=arguments.threads)
        for damaged in segmenter.damaged:
            print(f"kdseg: {damaged.id} is left out: {damaged.error}", file=sys.stderr)
        interrupt.check()
        volume = read_volume(arguments.input)
        interrupt.check()
        choice = segmenter.choose(volume, mirroring=arguments.mirroring)
        result = _segment(segmenter, volume, choice, arguments, interrupt)
        statistics = label_statistics(result.volume, result.labels, volume)
        writers = _writers(result, statistics, volume, choice.pack, arguments.input.name)
        write_together([(output.path, writers[output.option]) for output in outputs], interrupt)
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
    if arguments.record is not None:
        planned.append(PlannedOutput(option="--record", path=arguments.record, suffixes=(".json",)))
    return planned


def _segment(
    segmenter: Segmenter, volume: Volume, choice: Choice, arguments: argparse.Namespace, interrupt: Interrupt
) -> Segmentation:
    labels = None
    if arguments.labels is not None:
        labels = [int(name) if name.isascii() and name.isdigit() else name for name in arguments.labels]
    progress = None if arguments.quiet else ProgressLine(sys.stderr)
    try:
        return segmenter(
            volume,
            choice=choice,
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
    result: Segmentation, statistics: Sequence[LabelStatistics], volume: Volume, pack: StudentPack, input_name: str
) -> dict[str, Writer]:
    """Return what writes each output, by the option that asks for it."""
    manifest = pack.manifest
    unit = "HU" if manifest.modality == "CT" else IMAGE_UNITS
    title = f"{manifest.title} · {manifest.id} {manifest.version} · size {manifest.size}"

    def write_labels(path: Path) -> None:
        write_volume(result.volume, path)

    def write_table(path: Path) -> None:
        write_statistics([_without_formula(row) for row in statistics], path, intensity_unit=unit)

    def write_picture(path: Path) -> None:
        write_overlay(volume, result.volume, result.labels, path, title=title, modality=manifest.modality)

    def write_run(path: Path) -> None:
        write_record(result, input_name, path)

    return {"OUTPUT": write_labels, "--statistics": write_table, "--overlay": write_picture, "--record": write_run}


def _without_formula(row: LabelStatistics) -> LabelStatistics:
    """Return a row whose name a spreadsheet shows and does not compute, for packs may come from anywhere."""
    return replace(row, name=f"'{row.name}") if row.name.startswith(_FORMULA_STARTS) else row

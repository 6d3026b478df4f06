"""``kdseg segment``: an image file or a DICOM series in, a label map and whatever else was asked for out."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from KDSegmentatorLib.advice import Choice
from KDSegmentatorLib.analysis.overlay import write_overlay
from KDSegmentatorLib.analysis.seg_nrrd import SUFFIX as SEGMENTATION_SUFFIX
from KDSegmentatorLib.analysis.seg_nrrd import write_segmentation
from KDSegmentatorLib.analysis.statistics import IMAGE_UNITS, LabelStatistics, label_statistics, write_statistics
from KDSegmentatorLib.cli import dicom_outputs
from KDSegmentatorLib.cli.outputs import PlannedOutput, Writer, check_outputs, write_record, write_together
from KDSegmentatorLib.cli.terminal import Interrupt, ProgressLine, listening, table
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.label_selection import select_labels
from KDSegmentatorLib.inference.segmentation import RegionRecord, Segmentation
from KDSegmentatorLib.io.images import SUFFIXES, image_suffix, write_volume
from KDSegmentatorLib.machine.hardware import peak_memory
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.scan import Scan, read_scan, segment_scan
from KDSegmentatorLib.segmenter import Segmenter

MANY_WARNINGS = 8
"""More of them would push the first ones, which are the gravest, off a terminal's screen."""


def run(arguments: argparse.Namespace) -> None:
    """Segment a file; all outputs are written at the end, together or not at all.

    Args:
        arguments: of ``kdseg segment``.

    Raises:
        KDSegmentatorError: see the pipeline, the packs and the image files.
    """
    outputs = _planned_outputs(arguments)
    check_outputs(outputs, arguments.input)
    if arguments.split is not None and not arguments.split.is_dir():
        raise InvalidSettingsError(f"--split {arguments.split}: there is no such folder; create it first")
    with listening() as interrupt:
        segmenter, scan = _loaded(arguments, interrupt)
        volume = scan.volume
        dicom_outputs.check_dicom_source(arguments, scan)
        for damaged in segmenter.damaged:
            print(f"kdseg: {damaged.id} is left out: {damaged.error}", file=sys.stderr)
        interrupt.check()
        choice = segmenter.choose(volume, cancel=interrupt.requested)
        if choice.reason and not arguments.quiet:
            print(f"Size {choice.pack.manifest.size}: {choice.reason}", file=sys.stderr)
        begun = time.perf_counter()
        result = _segment(segmenter, scan, arguments, interrupt)
        finished = time.perf_counter()
        reason = segmenter.engine_for(choice.pack).reason
        with ThreadPoolExecutor(max_workers=1) as executor:  # counts while the labels, the first output, are written
            statistics = executor.submit(label_statistics, result.volume, result.labels, volume)
            writers = _writers(result, statistics, scan, choice.pack, reason, arguments)
            written = [(output.path, writers[output.option]) for output in outputs]
            if arguments.split is not None:
                written += _structures(result, arguments)
            write_together(written, interrupt)
        if not arguments.quiet:
            print(
                summary(
                    result,
                    statistics.result(),
                    choice,
                    reason,
                    before=begun - arguments.started,
                    after=_since(finished),
                )
            )
            print(f"Wrote {', '.join(str(path) for path, _ in written)}")
        elif result.record.warnings:
            print("\n".join(warning_lines(result)), file=sys.stderr)


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """Return what was asked for on the command line of ``segment`` or ``batch``.

    Raises:
        InvalidSettingsError: a value makes no sense.
    """
    return RunOptions(
        size=arguments.size,
        engine=arguments.engine,
        precision=arguments.precision,
        device=arguments.device,
        threads=arguments.threads,
        mirroring=arguments.mirroring,
        labels=arguments.labels or (),
        entropy=bool(arguments.entropy),
        probabilities=tuple(name for name, _ in getattr(arguments, "probability", ())),
        check_input=not arguments.unchecked,
        region=arguments.region,
    )


def _loaded(arguments: argparse.Namespace, interrupt: Interrupt) -> tuple[Segmenter, Scan]:
    """Return the pack with its engine, and the scan: both are loaded at the same time."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        reading = executor.submit(
            read_scan, arguments.input, series=arguments.series, frame=arguments.frame, check=interrupt.check
        )
        segmenter = Segmenter(arguments.pack, run_options(arguments), cancel=interrupt.requested)
        return segmenter, reading.result()


def summary(
    result: Segmentation,
    statistics: Sequence[LabelStatistics],
    choice: Choice,
    reason: str,
    *,
    before: float = 0.0,
    after: float = 0.0,
) -> str:
    """Return what a user wants to know after a run.

    Args:
        result: of the run.
        statistics: of its labels.
        choice: of the pack.
        reason: why this engine was taken.
        before: seconds for start, reading and loading.
        after: seconds for statistics and writing.
    """
    record = result.record
    rows = [("Structure", "Volume (ml)")]
    rows += [(row.name, f"{row.volume_ml:.2f}" if row.voxels else "not found") for row in statistics]
    seconds = record.seconds
    region = "" if record.region is None else f"finding the region {seconds['region']:.1f}, "
    memory = peak_memory()
    lines = [
        table(rows, numbers=[1]),
        "",
        f"Time    {before + seconds['total'] + after:.1f} s (start and reading {before:.1f}, {region}"
        f"preparing {seconds['preprocess']:.1f}, segmenting {seconds['windows']:.1f}, "
        f"restoring {seconds['restore']:.1f}, measuring and writing {after:.1f})",
        f"Memory  {memory / 1e9:.2f} GB at the peak" if memory else "Memory  unknown",
        f"Engine  {reason}" + (", mirroring" if record.mirroring else ""),
        f"Pack    {record.pack_id} {record.pack_version}, size {record.size}",
    ]
    if record.region is not None:
        lines.append(f"Region  {record.region.pack_id} {record.region.pack_version}{_margin(record.region)}")
    elif choice.pack.manifest.region is not None:
        lines.append(f"Region  given: {choice.pack.manifest.region.pack} was left out")
    if choice.reason:
        lines.append(f"Size    {choice.reason}")
    lines += warning_lines(result)
    return "\n".join(lines)


def warning_lines(result: Segmentation) -> list[str]:
    """Return the warnings, the gravest of which come first; of very many, the first ones and how many there are."""
    lines = [f"Warning: {warning.sentence}" for warning in result.record.warnings]
    if len(lines) <= MANY_WARNINGS:
        return lines
    left = len(lines) - MANY_WARNINGS
    return [*lines[:MANY_WARNINGS], f"Warning: {left} more warnings; --record FILE keeps all {len(lines)}"]


def _margin(region: RegionRecord) -> str:
    if region.alone:
        return "; the scan shows little else, and was taken as it is"
    return f", with {region.margin_mm:g} mm round it" if region.margin_mm else ""


def _planned_outputs(arguments: argparse.Namespace) -> list[PlannedOutput]:
    suffixes = (*SUFFIXES, dicom_outputs.SUFFIX)
    planned = [PlannedOutput(option="OUTPUT", path=arguments.output, suffixes=suffixes)]
    planned += dicom_outputs.planned_dicom_outputs(arguments)
    if arguments.statistics is not None:
        planned.append(PlannedOutput(option="--statistics", path=arguments.statistics, suffixes=(".csv", ".json")))
    if arguments.overlay is not None:
        planned.append(PlannedOutput(option="--overlay", path=arguments.overlay, suffixes=(".png",)))
    if arguments.record is not None:
        planned.append(PlannedOutput(option="--record", path=arguments.record, suffixes=(".json",)))
    if arguments.entropy is not None:
        planned.append(PlannedOutput(option="--entropy", path=arguments.entropy, suffixes=SUFFIXES))
    for name, path in arguments.probability:
        planned.append(PlannedOutput(option=f"--probability {name}", path=Path(path), suffixes=SUFFIXES))
    return planned


def _segment(segmenter: Segmenter, scan: Scan, arguments: argparse.Namespace, interrupt: Interrupt) -> Segmentation:
    progress = None if arguments.quiet else ProgressLine(sys.stderr)
    try:
        return segment_scan(segmenter, scan, progress=progress, cancel=interrupt.requested)
    finally:
        if progress is not None:
            progress.clear()


def _writers(
    result: Segmentation,
    statistics: Future[tuple[LabelStatistics, ...]],
    scan: Scan,
    pack: StudentPack,
    reason: str,
    arguments: argparse.Namespace,
) -> dict[str, Writer]:
    """Return what writes each output, by the option that asks for it."""
    manifest = pack.manifest
    unit = "HU" if manifest.modality == "CT" else IMAGE_UNITS
    title = f"{manifest.title} · {manifest.id} {manifest.version} · size {manifest.size}"

    names = {label.value: (label.name, label.color) for label in result.labels}

    dicom = dicom_outputs.dicom_writers(result, scan, arguments)

    def write_labels(path: Path) -> None:
        if "OUTPUT" in dicom:
            dicom["OUTPUT"](path)
        elif arguments.output.name.lower().endswith(SEGMENTATION_SUFFIX):
            write_segmentation(result, path)
        else:
            write_volume(result.volume, path, like=arguments.input, labels=names)
        statistics.result()  # should they fail, they do while nothing is in its place yet

    def write_table(path: Path) -> None:
        write_statistics(statistics.result(), path, intensity_unit=unit, record=result.record)

    def write_picture(path: Path) -> None:
        write_overlay(scan.volume, result.volume, result.labels, path, title=title, modality=manifest.modality)

    def write_run(path: Path) -> None:
        write_record(result, scan, reason, path, region_given=bool(arguments.region), frame=arguments.frame)

    def image(map_: Volume) -> Writer:
        return lambda path: write_volume(map_, path, like=arguments.input)

    writers: dict[str, Writer] = {
        **dicom,
        "OUTPUT": write_labels,
        "--statistics": write_table,
        "--overlay": write_picture,
        "--record": write_run,
    }
    if result.entropy is not None:
        writers["--entropy"] = image(result.entropy)
    for name, _ in arguments.probability:
        label = select_labels(manifest, [name])[0]
        writers[f"--probability {name}"] = image(result.probabilities[label.value])
    return writers


def _structures(result: Segmentation, arguments: argparse.Namespace) -> list[tuple[Path, Writer]]:
    """Return a file for every structure, 1 inside and 0 outside, in the format of OUTPUT.

    Raises:
        InvalidSettingsError: two structures would have one file, or a file is the scan or another output.
    """
    suffix = image_suffix(arguments.output)
    taken = {path.resolve() for path in (arguments.input, arguments.output)}
    files: list[tuple[Path, Writer]] = []
    for label in result.labels:
        name = re.sub(r"[^\w.-]+", "-", label.name).strip("-.") or str(label.value)
        path = arguments.split / f"{name}{suffix}"
        if path.resolve() in taken:
            raise InvalidSettingsError(
                f"--split {arguments.split}: {path.name} would be written over; take another folder"
            )
        taken.add(path.resolve())

        def write(path: Path, value: int = label.value) -> None:
            mask = (result.volume.voxels == value).astype(result.volume.voxels.dtype)
            write_volume(result.volume.with_voxels(mask), path, like=arguments.input)

        files.append((path, write))
    return files


def _since(moment: float) -> float:
    return time.perf_counter() - moment

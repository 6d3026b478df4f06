"""Scores of cases and labels, through the library's own pipeline; a CSV file keeps them for a later run to use."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from KDSegmentatorLib.analysis.surface_distance import DEFAULT_TOLERANCE_MM, surface_agreement
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import ExportError, InvalidSettingsError
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.options import PRECISIONS, RunOptions
from KDSegmentatorLib.packs.manifest import NotNegative, Precision, SurfaceKind
from KDSegmentatorLib.packs.manifest_file import write_manifest
from KDSegmentatorLib.packs.regions import region_pack
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import find_region

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.dataset import Case
    from KDSegmentatorLib.engines.engine import Engine
    from KDSegmentatorLib.geometry import Volume
    from KDSegmentatorLib.inference.region import FoundRegion
    from KDSegmentatorLib.packs.manifest import Manifest, ReducedFormat
    from KDSegmentatorLib.packs.pack import StudentPack

_PRECISIONS: dict[str, Precision] = {precision: precision for precision in PRECISIONS}

_SURFACES: dict[str, SurfaceKind] = {"voxels": "voxels", "subvoxel": "subvoxel"}

CaseDone = Callable[[int, int, float], None]
"""Called after every case with (done, total, seconds left)."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One label of one case.

    Attributes:
        model: name of the network, for example ``x1/4 logit``.
        precision: number format that it was run in.
        pack_hash: :func:`pack_hash` of the pack that was evaluated.
        mirroring: whether mirrored windows were averaged.
        case: name of the case.
        label: label value.
        reference_voxels: voxels of the label in the reference.
        predicted_voxels: in the network's segmentation.
        dice: Dice coefficient; nan if the label is in neither segmentation, 0 if it is in one of them.
        nsd: surface Dice; nan and 0 as for Dice.
        hd95_mm: 95 % Hausdorff distance in mm; nan if the label is in neither segmentation, infinite if it is in one.
        diagonal_mm: diagonal of the image, what an infinite HD95 counts as in means.
        nsd_tolerance_mm: tolerance of NSD.
        nsd_surface: what NSD takes for the surface.
        seconds: wall time of the whole case, in milliseconds' precision.
    """

    model: str
    precision: Precision = "float32"
    pack_hash: str
    mirroring: bool
    case: str
    label: int
    reference_voxels: int
    predicted_voxels: int
    dice: float
    nsd: float
    hd95_mm: float
    diagonal_mm: float
    nsd_tolerance_mm: float
    nsd_surface: SurfaceKind
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SurfaceSettings:
    """How NSD is defined; see :func:`KDSegmentatorLib.analysis.surface_distance.surface_agreement`.

    Attributes:
        tolerance_mm: how far apart two surfaces may be to count as the same.
        surface: ``voxels`` (MONAI's default) or ``subvoxel`` (area-weighted patches between the voxels).
    """

    tolerance_mm: NotNegative = DEFAULT_TOLERANCE_MM
    surface: SurfaceKind = "voxels"


@dataclass(frozen=True, kw_only=True)
class ReducedEngine:
    """A reduced precision at work, whether the pack was accepted in it or not.

    Attributes:
        engine: loaded with the network of this precision.
        precision: the engine's.
        body_sha256: hash of that network's file.
        probe_agreement: share of the foreground voxels of the pack's probe that keep their label.
    """

    engine: Engine
    precision: ReducedFormat
    body_sha256: str
    probe_agreement: float


class WholeScans:
    """Finds the region in whole scans that a task's packs were trained to see, once a scan, as for a user.

    Args:
        pack: a pack that is run after another one.
        store: where the other one is looked up; None for the user's and the shipped packs.
        threads: CPU threads of the engine.

    Raises:
        InvalidSettingsError: the pack sees whole scans itself.
        PackError: the other pack is missing, damaged or too old.
    """

    def __init__(self, pack: StudentPack, *, store: PackStore | None = None, threads: int | None = None) -> None:
        found = region_pack(pack, (store or PackStore()).find)
        if found is None:
            raise InvalidSettingsError(f"{pack.manifest.id} sees whole scans itself; leave --whole out")
        self.pack = found
        self._engine = choose_engine(found, RunOptions(threads=threads)).engine
        self._regions: dict[str, FoundRegion] = {}

    def region(self, case: Case, image: Volume) -> FoundRegion:
        """Return what the other pack finds in a case."""
        if case.name not in self._regions:
            self._regions[case.name] = find_region(image, self.pack, self._engine)
        return self._regions[case.name]


def pack_hash(pack: StudentPack, reduced: ReducedEngine | None = None, earlier: StudentPack | None = None) -> str:
    """Return a hash that changes with everything that can change a pack's result.

    In float32 that is all but its evaluation, what is expected of results, its probe and its reduced precisions; of
    these, the one that is used counts when it is run in a reduced precision. So does the pack that is run before it,
    where scans are whole. Texts count too: a pack that says something else is evaluated anew.
    """
    manifest = pack.manifest
    network = dataclasses.replace(manifest.network, probe=None, reduced_precisions=())
    files = {name: record for name, record in manifest.files.items() if name not in _unused_files(manifest)}
    text = write_manifest(dataclasses.replace(manifest, evaluation=None, expected=None, network=network, files=files))
    if reduced is not None:
        text += f"{reduced.precision} {reduced.body_sha256}"
    if earlier is not None:
        text += earlier.manifest_sha256
    return hashlib.sha256(text.encode()).hexdigest()


def score_pack(
    pack: StudentPack,
    model: str,
    cases: Sequence[Case],
    known: Iterable[Score],
    *,
    surface: SurfaceSettings | None = None,
    labels: Sequence[int] | None = None,
    whole: WholeScans | None = None,
    reduced: ReducedEngine | None = None,
    mirroring: bool = False,
    threads: int | None = None,
    done: CaseDone | None = None,
    save: Callable[[list[Score]], None] | None = None,
) -> list[Score]:
    """Segment every case with a pack and compare with the reference.

    Args:
        pack: the pack.
        model: its name in the scores.
        cases: held-out cases.
        known: scores of earlier runs; cases that the same pack has scores for are not run again.
        surface: how NSD is defined; None takes the usual definition.
        labels: values to score; None for all of the pack.
        whole: finds the region in whole scans; None if images show what training images did.
        reduced: a reduced precision to run it in; None runs it in float32.
        mirroring: average over mirrored windows.
        threads: CPU threads of the engine in float32; None leaves it to the engine.
        done: progress.
        save: called after every new case with all scores of this pack so far.

    Returns:
        The scores, in the order of the cases and labels.

    Raises:
        KDSegmentatorError: an image is not readable or not usable, or the engine fails.
    """
    fingerprint = pack_hash(pack, reduced, None if whole is None else whole.pack)
    values = [label.value for label in pack.manifest.labels if labels is None or label.value in labels]
    surface = surface or SurfaceSettings()
    same = (fingerprint, model, mirroring, surface.tolerance_mm, surface.surface)
    kept: dict[str, list[Score]] = {}
    for score in known:
        if (score.pack_hash, score.model, score.mirroring, score.nsd_tolerance_mm, score.nsd_surface) == same:
            kept.setdefault(score.case, []).append(score)
    scores: list[Score] = []
    if reduced is not None:
        engine = reduced.engine
    else:
        engine = choose_engine(pack, RunOptions(precision="float32", threads=threads)).engine
    start, fresh = time.perf_counter(), 0
    for number, case in enumerate(cases, start=1):
        rows = kept.get(case.name, [])
        if sorted(row.label for row in rows) == sorted(values):
            scores += rows
            continue
        image = read_volume(case.image)
        region = None if whole is None else whole.region(case, image)
        options = RunOptions(region="given" if whole is None else "", mirroring=mirroring)
        result = segment(image, pack, engine, options, region=region)
        reference = read_volume(case.label, allow_constant=True)  # a case may hold none of the labels
        if not reference.same_grid(result.volume):
            raise ExportError(f"the segmentation of {case.name} is not on the grid of {case.label}")
        seconds = round(result.record.seconds["total"], 3)
        found = surface_agreement(
            reference,
            result.volume,
            values,
            tolerance_mm=surface.tolerance_mm,
            surface=surface.surface,
            threads=threads,
        )
        diagonal = math.hypot(*(length * step for length, step in zip(reference.size, reference.spacing, strict=True)))
        scores += [
            Score(
                model=model,
                precision=engine.precision,
                pack_hash=fingerprint,
                mirroring=mirroring,
                case=case.name,
                label=value,
                reference_voxels=agreement.first_voxels,
                predicted_voxels=agreement.second_voxels,
                dice=agreement.dice,
                nsd=agreement.nsd,
                hd95_mm=agreement.hd95_mm,
                diagonal_mm=diagonal,
                nsd_tolerance_mm=surface.tolerance_mm,
                nsd_surface=surface.surface,
                seconds=seconds,
            )
            for value, agreement in found.items()
        ]
        fresh += 1
        if save is not None:
            save(scores)
        if done is not None:
            done(number, len(cases), (time.perf_counter() - start) / fresh * (len(cases) - number))
    return scores


def read_scores(path: Path) -> list[Score]:
    """Read a scores file; a missing one is empty, as is one of a version that measured Dice only.

    Raises:
        ExportError: the file is not one of ours.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            if {"dice", "pack_hash"} <= set(table.fieldnames or ()) and "nsd" not in (table.fieldnames or ()):
                return []
            return [
                Score(
                    model=row["model"],
                    precision=_PRECISIONS[row["precision"]],
                    pack_hash=row["pack_hash"],
                    mirroring=row["mirroring"] == "True",
                    case=row["case"],
                    label=int(row["label"]),
                    reference_voxels=int(row["reference_voxels"]),
                    predicted_voxels=int(row["predicted_voxels"]),
                    dice=_number(row["dice"]),
                    nsd=_number(row["nsd"]),
                    hd95_mm=_number(row["hd95_mm"]),
                    diagonal_mm=float(row["diagonal_mm"]),
                    nsd_tolerance_mm=float(row["nsd_tolerance_mm"]),
                    nsd_surface=_SURFACES[row["nsd_surface"]],
                    seconds=float(row["seconds"]),
                )
                for row in table
            ]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ExportError(f"{path} is not a table of scores ({error}); remove it to evaluate again") from error


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _unused_files(manifest: Manifest) -> set[str]:
    """Return the names of files that float32 does not need."""
    network = manifest.network
    reduced = {each.body for each in network.reduced_precisions} - {network.body}
    return reduced if network.probe is None else reduced | {network.probe}


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write a scores file, whole or not at all; an undefined score is an empty cell, an infinite HD95 is ``inf``.

    Raises:
        ImageWriteError: the disk is full or not writable.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Score)])
    for score in scores:
        values = dataclasses.asdict(score).values()
        writer.writerow("" if isinstance(value, float) and math.isnan(value) else value for value in values)
    with atomic_output(path) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8", newline="")

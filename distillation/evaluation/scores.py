"""Case scores: measured through the library's own pipeline, kept in a CSV file that a later run goes on from."""

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

from KDSegmentatorLib.analysis.overlap import dice
from KDSegmentatorLib.engines.candidates import PRECISIONS, EngineRequest
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.atomic import atomic_output
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.packs.manifest import Precision
from KDSegmentatorLib.packs.reader import write_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.dataset import Case
    from KDSegmentatorLib.engines.engine import Engine
    from KDSegmentatorLib.packs.manifest import Manifest, ReducedFormat
    from KDSegmentatorLib.packs.pack import StudentPack

_PRECISIONS: dict[str, Precision] = {precision: precision for precision in PRECISIONS}

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
        dice: Dice coefficient; nan if the label is in neither segmentation.
        seconds: wall time of the whole case, in milliseconds' precision.
    """

    model: str
    precision: Precision = "float32"
    pack_hash: str
    mirroring: bool
    case: str
    label: int
    dice: float
    seconds: float


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


def pack_hash(pack: StudentPack, reduced: ReducedEngine | None = None) -> str:
    """Return a hash of everything that can change a pack's result.

    In float32 that is all but its evaluation, its probe and its reduced precisions; of these, the one that is used
    counts when it is run in a reduced precision.
    """
    manifest = pack.manifest
    network = dataclasses.replace(manifest.network, probe=None, reduced_precisions=())
    files = {name: record for name, record in manifest.files.items() if name not in _unused_files(manifest)}
    text = write_manifest(dataclasses.replace(manifest, evaluation=None, network=network, files=files))
    if reduced is not None:
        text += f"{reduced.precision} {reduced.body_sha256}"
    return hashlib.sha256(text.encode()).hexdigest()


def score_pack(
    pack: StudentPack,
    model: str,
    cases: Sequence[Case],
    known: Iterable[Score],
    *,
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
    fingerprint = pack_hash(pack, reduced)
    values = [label.value for label in pack.manifest.labels]
    kept: dict[str, list[Score]] = {}
    for score in known:
        if (score.pack_hash, score.model, score.mirroring) == (fingerprint, model, mirroring):
            kept.setdefault(score.case, []).append(score)
    scores: list[Score] = []
    if reduced is not None:
        engine = reduced.engine
    else:
        engine = choose_engine(pack, EngineRequest(precision="float32", threads=threads)).engine
    start, fresh = time.perf_counter(), 0
    for number, case in enumerate(cases, start=1):
        rows = kept.get(case.name, [])
        if sorted(row.label for row in rows) == sorted(values):
            scores += rows
            continue
        result = segment(read_volume(case.image), pack, engine, mirroring=mirroring)
        reference = read_volume(case.label, allow_constant=True)  # a case may hold none of the labels
        if not reference.same_grid(result.volume):
            raise ExportError(f"the segmentation of {case.name} is not on the grid of {case.label}")
        seconds = round(result.record.seconds["total"], 3)
        overlap = dice(reference.voxels, result.volume.voxels, values)
        scores += [
            Score(
                model=model,
                precision=engine.precision,
                pack_hash=fingerprint,
                mirroring=mirroring,
                case=case.name,
                label=value,
                dice=overlap[value],
                seconds=seconds,
            )
            for value in values
        ]
        fresh += 1
        if save is not None:
            save(scores)
        if done is not None:
            done(number, len(cases), (time.perf_counter() - start) / fresh * (len(cases) - number))
    return scores


def read_scores(path: Path) -> list[Score]:
    """Read a scores file; a missing one is empty.

    Raises:
        ExportError: the file is not one of ours.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                Score(
                    model=row["model"],
                    precision=_PRECISIONS[row.get("precision", "float32")],  # older tables are of nothing else
                    pack_hash=row["pack_hash"],
                    mirroring=row["mirroring"] == "True",
                    case=row["case"],
                    label=int(row["label"]),
                    dice=float(row["dice"]) if row["dice"] else math.nan,
                    seconds=float(row["seconds"]),
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ExportError(f"{path} is not a table of scores ({error}); remove it to evaluate again") from error


def _unused_files(manifest: Manifest) -> set[str]:
    """Return the names of files that float32 does not need."""
    network = manifest.network
    reduced = {each.body for each in network.reduced_precisions} - {network.body}
    return reduced if network.probe is None else reduced | {network.probe}


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write a scores file, whole or not at all; an undefined Dice is an empty cell.

    Raises:
        ImageWriteError: the disk is full or not writable.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Score)])
    for score in scores:
        row = dataclasses.asdict(score)
        row["dice"] = "" if math.isnan(score.dice) else repr(score.dice)
        writer.writerow(row.values())
    with atomic_output(path) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8", newline="")

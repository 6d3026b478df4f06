"""Evaluate a whole family of packs on its held-out fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distillation.evaluation.pack_evaluation import to_evaluation
from distillation.evaluation.paired_statistics import Comparison, ModelResult, compare_all, summarise
from distillation.evaluation.reduced_precision import (
    INT8_BODY_NAME,
    LARGEST_LOSS,
    ReducedResult,
    compare_with_float32,
    missing_for,
    reduced_engine,
)
from distillation.evaluation.scores import (
    ReducedEngine,
    Score,
    SurfaceSettings,
    WholeScans,
    pack_hash,
    read_scores,
    score_pack,
    write_scores,
)
from distillation.evaluation.tables import markdown, to_json, write_text
from distillation.export.pack_folder import with_evaluation
from KDSegmentatorLib.errors import EngineError, InvalidSettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.dataset import Case
    from KDSegmentatorLib.packs.manifest import Evaluation, ReducedFormat
    from KDSegmentatorLib.packs.pack import StudentPack

FamilyProgress = Callable[[str, int, int, float], None]
"""Called after every case with (model, done, total, seconds left for this model)."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A pack of the family.

    Attributes:
        pack: the pack; the teacher's has the method ``teacher`` in its provenance.
        int8_body: its network in int8, to be tried; None if there is none.
    """

    pack: StudentPack
    int8_body: bytes | None = None

    @property
    def method(self) -> str:
        """``teacher``, ``plain`` or the distillation method."""
        return self.pack.manifest.provenance.method

    @property
    def name(self) -> str:
        """Name in tables: ``x1 teacher``, ``x1/4 logit``."""
        return f"{self.pack.manifest.size} {self.method}"


@dataclass(frozen=True, kw_only=True)
class FamilyResult:
    """Results of all members and the comparisons between them."""

    models: tuple[ModelResult, ...]
    comparisons: tuple[Comparison, ...]
    reduced: tuple[ReducedResult, ...]
    table: str


def evaluate_family(
    members: Sequence[Member],
    cases: Sequence[Case],
    *,
    dataset: str,
    split: str,
    into: Path,
    surface: SurfaceSettings | None = None,
    about: Mapping[str, Any] | None = None,
    subjects: Mapping[str, str] | None = None,
    labels: Sequence[int] | None = None,
    whole: WholeScans | None = None,
    outside: bool = False,
    mirroring: bool = False,
    threads: int | None = None,
    progress: FamilyProgress | None = None,
) -> FamilyResult:
    """Evaluate packs, write the tables and fill the packs' manifests.

    Every pack is run in float32, and in the reduced precisions that this machine has; those that lose next to nothing
    are written into the pack, the others removed from it. What cannot be measured here is named in the tables, and
    stays as it is in the pack: left out, or as another machine measured it.

    Writes ``scores.csv`` (one row a model, precision, case and label; also what a later run goes on from),
    ``evaluation.md`` and ``evaluation.json``. With mirroring the tables are called ``evaluation-mirrored``, float32 is
    run only, and the manifests stay as they are: packs state what they reach the way they are run by default.

    Args:
        members: the teacher first, if it is there.
        cases: held-out cases.
        dataset: what people call the data.
        split: which part of it the cases are.
        into: folder for the files.
        surface: how NSD is defined; None takes the usual definition.
        about: what else ``evaluation.json`` says, for example the seed.
        subjects: the subject of each case, by name; cases that are not in it stand for themselves.
        labels: values of the labels that the references have; None for all.
        whole: finds the region in whole scans; None if images show what training images did.
        outside: the cases are not those that the packs speak of: float32 is run only, and the manifests stay as they
            are.
        mirroring: average over mirrored windows.
        threads: CPU threads of the engine.
        progress: called after every case.

    Raises:
        InvalidSettingsError: all cases are of one subject.
        KDSegmentatorError: a case or a pack is not usable.
    """
    subject_of = {case.name: (subjects or {}).get(case.name, case.name) for case in cases}
    if len(set(subject_of.values())) < 2:  # said before hours of work, not after them
        raise InvalidSettingsError(
            f"all {len(cases)} held-out cases are of one subject: they say nothing of others; hold out a fold with "
            "more subjects ('fold' in the recipe's dataset)"
        )
    into.mkdir(parents=True, exist_ok=True)
    surface = surface or SurfaceSettings()
    runs = _Runs(
        cases,
        into / "scores.csv",
        surface=surface,
        labels=labels,
        whole=whole,
        mirroring=mirroring,
        threads=threads,
        progress=progress,
    )
    scores = {member.name: runs.score(member) for member in members}
    results = {name: summarise(name, rows, subject_of) for name, rows in scores.items()}
    reduced = _Reduced() if mirroring or outside else _run_reduced(runs, members, scores)
    teacher = next((results[member.name] for member in members if member.method == "teacher"), None)
    comparisons = compare_all(_pairs(members), results, teacher)
    table = markdown(
        list(results.values()),
        comparisons,
        teacher=teacher,
        title=f"{dataset}: {split}" + (", mirrored windows averaged" if mirroring else ""),
        labels=[each for each in members[0].pack.manifest.labels if labels is None or each.value in labels],
        parameters={member.name: member.pack.manifest.network.parameters for member in members},
        surface=surface,
        reduced=reduced.results,
        notes=reduced.notes,
    )
    name = "evaluation-mirrored" if mirroring else "evaluation"
    write_text(into / f"{name}.md", table)
    text = to_json(
        list(results.values()),
        comparisons,
        reduced.results,
        reduced.notes,
        dataset=dataset,
        split=split,
        subjects=subject_of,
        mirroring=mirroring,
        surface=asdict(surface),
        about={**(about or {}), "pack_hashes": {member.name: runs.hash_of(member) for member in members}},
    )
    write_text(into / f"{name}.json", text)
    for member in () if mirroring or outside else members:
        result = results[member.name]
        evaluation = to_evaluation(
            result, dataset=dataset, split=split, mirroring=mirroring, surface=surface, teacher=teacher
        )
        _fill(member, evaluation, reduced)
    return FamilyResult(models=tuple(results.values()), comparisons=comparisons, reduced=reduced.results, table=table)


class _Runs:
    """Runs packs on the cases; every new score is in the file at once.

    Args:
        cases: held-out cases.
        path: the scores' file.
        surface: how NSD is defined.
        labels: values to score; None for all.
        whole: finds the region in whole scans.
        mirroring: average over mirrored windows.
        threads: CPU threads of the engines.
        progress: called after every case.

    Raises:
        ExportError: the file is not one of ours.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        path: Path,
        *,
        surface: SurfaceSettings,
        labels: Sequence[int] | None,
        whole: WholeScans | None,
        mirroring: bool,
        threads: int | None,
        progress: FamilyProgress | None,
    ) -> None:
        self._cases = cases
        self._path = path
        self._surface = surface
        self._labels = labels
        self._whole = whole
        self._mirroring = mirroring
        self.threads = threads
        self._progress = progress
        self._known = read_scores(path)

    def hash_of(self, member: Member) -> str:
        """Return what the scores of a pack in float32 are known by."""
        return pack_hash(member.pack, earlier=None if self._whole is None else self._whole.pack)

    def score(self, member: Member, reduced: ReducedEngine | None = None) -> list[Score]:
        """Return the scores of a pack, in float32 or a reduced precision; see :func:`score_pack`."""
        name = member.name if reduced is None else f"{member.name} {reduced.precision}"
        scores = score_pack(
            member.pack,
            member.name,
            self._cases,
            list(self._known),
            surface=self._surface,
            labels=self._labels,
            whole=self._whole,
            reduced=reduced,
            mirroring=self._mirroring,
            threads=self.threads,
            done=None if self._progress is None else _named(self._progress, name),
            save=self._save,
        )
        self._save(scores)
        return scores

    def _save(self, scores: Sequence[Score]) -> None:
        self._known = _merged(scores, self._known)
        write_scores(self._path, self._known)


@dataclass(frozen=True, kw_only=True)
class _Reduced:
    """What became of the reduced precisions.

    Attributes:
        results: of those that ran.
        tried: model names and precisions, of those that ran and of those that failed.
        notes: one sentence for each that did not run.
    """

    results: tuple[ReducedResult, ...] = ()
    tried: frozenset[tuple[str, ReducedFormat]] = frozenset()
    notes: tuple[str, ...] = ()


def _run_reduced(runs: _Runs, members: Sequence[Member], exact: Mapping[str, Sequence[Score]]) -> _Reduced:
    """Run packs in all reduced precisions that this machine has.

    An engine that fails costs its own precision only.

    Args:
        runs: runs the packs.
        members: the packs.
        exact: scores in float32 by model name.
    """
    results: list[ReducedResult] = []
    tried: set[tuple[str, ReducedFormat]] = set()
    notes: list[str] = []
    for precision in LARGEST_LOSS:
        missing = missing_for(precision)
        if missing is not None:
            notes.append(f"{precision} was not measured: {missing}.")
            continue
        for member in members:
            body = member.int8_body if precision == "int8" else member.pack.body()
            if body is None:
                continue
            tried.add((member.name, precision))
            try:
                engine = reduced_engine(member.pack, precision, body, runs.threads)
                scores = runs.score(member, engine)
            except EngineError as error:
                notes.append(f"{member.name} was refused in {precision}: {error}.")
                continue
            results.append(compare_with_float32(member.name, engine, exact[member.name], scores))
    return _Reduced(results=tuple(results), tried=frozenset(tried), notes=tuple(notes))


def _fill(member: Member, evaluation: Evaluation, reduced: _Reduced) -> None:
    """Write results into a pack; reduced precisions that were not tried stay as they are."""
    network = member.pack.manifest.network
    kept = [each for each in network.reduced_precisions if (member.name, each.precision) not in reduced.tried]
    bodies: dict[str, bytes] = {}
    for each in reduced.results:
        if each.model != member.name or not each.accepted:
            continue
        body = network.body
        if each.precision == "int8" and member.int8_body is not None:
            body = INT8_BODY_NAME
            bodies[body] = member.int8_body
        kept.append(each.to_manifest(body))
    with_evaluation(member.pack, evaluation, kept, bodies)


def _named(progress: FamilyProgress, name: str) -> Callable[[int, int, float], None]:
    return lambda done, total, seconds: progress(name, done, total, seconds)


def _pairs(members: Sequence[Member]) -> list[tuple[str, str]]:
    """Return the names of every distilled student and of the plain one of its size."""
    plain = {member.pack.manifest.size: member.name for member in members if member.method == "plain"}
    return [
        (member.name, plain[member.pack.manifest.size])
        for member in members
        if member.method not in ("plain", "teacher") and member.pack.manifest.size in plain
    ]


def _merged(scores: Sequence[Score], known: Sequence[Score]) -> list[Score]:
    """Return the new scores and what was known about other packs and cases, without duplicates."""

    def key(score: Score) -> tuple[object, ...]:
        surface = score.nsd_tolerance_mm, score.nsd_surface
        return score.model, score.pack_hash, score.mirroring, score.case, score.label, surface

    return list({key(score): score for score in [*known, *scores]}.values())

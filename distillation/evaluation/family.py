"""Evaluate a whole family of packs on its held-out fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillation.evaluation.scores import Score, read_scores, score_pack, write_scores
from distillation.evaluation.statistics import Comparison, ModelResult, compare, summarise, to_evaluation
from distillation.evaluation.tables import markdown, to_json, write_text
from distillation.export.folder import with_evaluation

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.dataset import Case
    from KDSegmentatorLib.packs.pack import StudentPack

FamilyProgress = Callable[[str, int, int, float], None]
"""Called after every case with (model, done, total, seconds left for this model)."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A pack of the family.

    Attributes:
        pack: the pack; the teacher's has the method ``teacher`` in its provenance.
    """

    pack: StudentPack

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
    table: str


def evaluate_family(
    members: Sequence[Member],
    cases: Sequence[Case],
    *,
    dataset: str,
    split: str,
    into: Path,
    mirroring: bool = False,
    threads: int | None = None,
    progress: FamilyProgress | None = None,
) -> FamilyResult:
    """Evaluate packs, write the tables and fill the packs' manifests.

    Writes ``scores.csv`` (one row a model, case and label; also what a later run goes on from), ``evaluation.md`` and
    ``evaluation.json``. With mirroring the tables are called ``evaluation-mirrored`` and the manifests stay as they
    are: packs state what they reach the way they are run by default.

    Args:
        members: the teacher first, if it is there.
        cases: held-out cases.
        dataset: what people call the data.
        split: which part of it the cases are.
        into: folder for the files.
        mirroring: average over mirrored windows.
        threads: CPU threads of the engine.
        progress: called after every case.

    Raises:
        KDSegmentatorError: a case or a pack is not usable.
    """
    into.mkdir(parents=True, exist_ok=True)
    path = into / "scores.csv"
    known = read_scores(path)
    scores: list[Score] = []
    for member in members:
        finished = list(scores)

        def save(rows: list[Score], finished: list[Score] = finished) -> None:
            write_scores(path, _merged([*finished, *rows], known))

        scores += score_pack(
            member.pack,
            member.name,
            cases,
            known,
            mirroring=mirroring,
            threads=threads,
            done=None if progress is None else _named(progress, member.name),
            save=save,
        )
    write_scores(path, _merged(scores, known))
    results = {member.name: summarise(member.name, scores) for member in members}
    teacher = next((results[member.name] for member in members if member.method == "teacher"), None)
    comparisons = _comparisons(members, results, teacher)
    table = markdown(
        list(results.values()),
        comparisons,
        title=f"{dataset}: {split}" + (", mirrored windows averaged" if mirroring else ""),
        labels=members[0].pack.manifest.labels,
        parameters={member.name: member.pack.manifest.network.parameters for member in members},
    )
    name = "evaluation-mirrored" if mirroring else "evaluation"
    write_text(into / f"{name}.md", table)
    text = to_json(list(results.values()), comparisons, dataset=dataset, split=split, mirroring=mirroring)
    write_text(into / f"{name}.json", text)
    for member in members if not mirroring else ():
        result = results[member.name]
        evaluation = to_evaluation(result, dataset=dataset, split=split, mirroring=mirroring, teacher=teacher)
        with_evaluation(member.pack, evaluation)
    return FamilyResult(models=tuple(results.values()), comparisons=tuple(comparisons), table=table)


def _named(progress: FamilyProgress, name: str) -> Callable[[int, int, float], None]:
    return lambda done, total, seconds: progress(name, done, total, seconds)


def _comparisons(
    members: Sequence[Member], results: dict[str, ModelResult], teacher: ModelResult | None
) -> list[Comparison]:
    """Compare every distilled student with the plain one of its size."""
    plain = {member.pack.manifest.size: member.name for member in members if member.method == "plain"}
    return [
        compare(results[member.name], results[plain[member.pack.manifest.size]], teacher)
        for member in members
        if member.method not in ("plain", "teacher") and member.pack.manifest.size in plain
    ]


def _merged(scores: Sequence[Score], known: Sequence[Score]) -> list[Score]:
    """Return the new scores and what was known about other packs and cases, without duplicates."""

    def key(score: Score) -> tuple[str, str, bool, str, int]:
        return score.model, score.pack_hash, score.mirroring, score.case, score.label

    return list({key(score): score for score in [*known, *scores]}.values())

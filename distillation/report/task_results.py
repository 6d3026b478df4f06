"""What a report is made of, read from one workspace or joined from several seeds of one task."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from distillation.evaluation.efficiency import Efficiency, read_efficiency
from distillation.evaluation.paired_statistics import (
    Comparison,
    ModelResult,
    compare_all,
    metric_value,
    or_agreement,
    summarise,
)
from distillation.evaluation.scores import Score, SurfaceSettings, read_scores
from KDSegmentatorLib.errors import ExportError, InvalidSettingsError

TEACHER = "x1 teacher"


@dataclass(frozen=True, kw_only=True)
class TaskResults:
    """A family on its held-out cases.

    Attributes:
        task: the family's name.
        title: what people call it.
        dataset: what people call the data.
        split: which part of it the cases are.
        surface: how NSD is defined.
        labels: names of the structures by value.
        seeds: of the trainings, one a workspace.
        models: names of the networks, the teacher first.
        subjects: the subject of each case; the statistics are over subjects.
        scores: float32 rows of all seeds; those of a seed have its number.
        efficiency: what the networks cost, of the first workspace.
        other_costs: names of networks whose cost is known of another pack only than the one that was evaluated.
        lacking: networks that are left out because not every seed has them, and the seeds that do not.
    """

    task: str
    title: str
    dataset: str
    split: str
    surface: SurfaceSettings
    labels: dict[int, str]
    seeds: tuple[int, ...]
    models: tuple[str, ...]
    scores: tuple[tuple[Score, ...], ...]
    efficiency: tuple[Efficiency, ...]
    subjects: Mapping[str, str] = field(default_factory=dict)
    other_costs: tuple[str, ...] = ()
    lacking: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def by_seed(self) -> list[dict[str, ModelResult]]:
        """Return the results of every seed by model; their average is what :meth:`joined` has.

        A label of a case is undefined only if it is so in all seeds. Where it is undefined in some of them, it counts
        there as agreement: Dice and NSD 1, HD95 0 mm.
        """
        found = {model: self._common_rows(model) for model in self.models}
        return [
            {model: summarise(model, rows[seed], self.subjects) for model, rows in found.items()}
            for seed in range(len(self.scores))
        ]

    def joined(self) -> dict[str, ModelResult]:
        """Return the results by model with every case's score averaged over the seeds, by the rule of :meth:`by_seed`.

        Subjects are what the statistics draw from: more seeds make a case's score steadier, they are not more cases,
        and more cases of a subject are not more subjects.
        Undefined and replaced scores are counted as they were measured, over all seeds.
        """
        return {model: self._joined(model) for model in self.models}

    def comparisons(self) -> tuple[Comparison, ...]:
        """Compare every distilled student with the plain one of its size, over seeds x cases."""
        pairs = [
            (model, f"{size} plain")
            for model in self.models
            for size, _, method in [model.partition(" ")]
            if method not in ("teacher", "plain") and f"{size} plain" in self.models
        ]
        results = self.joined()
        return compare_all(pairs, results, results.get(TEACHER), self.by_seed() if len(self.seeds) > 1 else ())

    def _joined(self, model: str) -> ModelResult:
        averaged = [
            replace(
                rows[0],
                dice=fmean(metric_value(row, "dice") for row in rows),
                nsd=fmean(metric_value(row, "nsd") for row in rows),
                hd95_mm=fmean(metric_value(row, "hd95_mm") for row in rows),
                seconds=fmean(row.seconds for row in rows),
            )
            for rows in zip(*self._common_rows(model), strict=True)
        ]
        measured = [row for rows in self.scores for row in rows if row.model == model]
        return replace(
            summarise(model, averaged, self.subjects),
            undefined=sum(math.isnan(row.dice) for row in measured),
            replaced=sum(math.isinf(row.hd95_mm) for row in measured),
        )

    def _common_rows(self, model: str) -> list[list[Score]]:
        """Return the rows of every seed in one order, filled in by the rule of :meth:`by_seed`."""
        seeds = [{(row.case, row.label): row for row in rows if row.model == model} for rows in self.scores]
        common: list[list[Score]] = [[] for _ in seeds]
        for key in seeds[0]:
            rows = [rows[key] for rows in seeds]
            nowhere = all(math.isnan(row.dice) for row in rows)
            for n, row in enumerate(rows):
                common[n].append(row if nowhere else _filled(row))
        return common


def outside_tests(folder: Path) -> list[Path]:
    """Return the folders of a workspace's evaluations on cases from outside."""
    return sorted(path.parent for path in (folder / "tests").glob("*/evaluation.json"))


def read_results(folder: Path, test: Path | None = None) -> TaskResults:
    """Read what ``evaluate`` left in a workspace.

    Args:
        folder: the workspace.
        test: one of its :func:`outside_tests`; None for the held-out cases.

    Raises:
        ExportError: it was not evaluated, or by a version that measured less or did not say whom the cases show.
    """
    evaluated = test or folder / "evaluation"
    path = evaluated / "evaluation.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        about = content["about"]
        surface = SurfaceSettings(**content["surface"])
        labels = {int(value): str(name) for value, name in about["labels"].items()}
        hashes = {str(model): str(value) for model, value in about["pack_hashes"].items()}
        seed, task, title = int(about["seed"]), str(about["task"]), str(about["title"])
        dataset, split = str(content["dataset"]), str(content["split"])
        subjects = {str(case): str(subject) for case, subject in content["subjects"].items()}
    except FileNotFoundError:
        raise ExportError(f"{path} is missing; run 'kdseg-distill evaluate' first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path} cannot be read ({error}); run 'kdseg-distill evaluate' again") from error
    rows = tuple(
        row
        for row in read_scores(evaluated / "scores.csv")
        if row.precision == "float32"
        and not row.mirroring
        and hashes.get(row.model) == row.pack_hash
        and (row.nsd_tolerance_mm, row.nsd_surface) == (surface.tolerance_mm, surface.surface)
    )
    models = tuple(model for model in hashes if any(row.model == model for row in rows))
    if not models:
        raise ExportError(f"{folder} holds no scores of its networks; run 'kdseg-distill evaluate' again")
    costs = read_efficiency(evaluated / "efficiency.json")
    efficiency = tuple(cost for cost in costs if cost.model in models and cost.pack_hash in (None, hashes[cost.model]))
    return TaskResults(
        task=task,
        title=title,
        dataset=dataset,
        split=split,
        surface=surface,
        labels=labels,
        seeds=(seed,),
        models=models,
        scores=(rows,),
        subjects=subjects,
        efficiency=efficiency,
        other_costs=tuple(cost.model for cost in costs if cost not in efficiency),
    )


def join_seeds(results: Sequence[TaskResults]) -> list[TaskResults]:
    """Return one result a task and test set; workspaces of one task are its seeds.

    Networks that not every seed has are left out and named in ``lacking``.

    Raises:
        InvalidSettingsError: workspaces of one task were evaluated on other cases or subjects, or with another NSD, or
            have the same seed, or no network in common.
    """
    tasks: dict[tuple[str, str], list[TaskResults]] = {}
    for each in results:
        tasks.setdefault((each.task, each.title), []).append(each)
    return [_join(seeds) if len(seeds) > 1 else seeds[0] for seeds in tasks.values()]


def _join(seeds: Sequence[TaskResults]) -> TaskResults:
    first = seeds[0]
    known = tuple(dict.fromkeys(model for each in seeds for model in each.models))
    lacking = {model: tuple(each.seeds[0] for each in seeds if model not in each.models) for model in known}
    models = tuple(model for model in known if not lacking[model])
    if not models:
        raise InvalidSettingsError(f"the workspaces of {first.task} have no network in common; evaluate the same ones")
    same = (first.surface, first.labels, first.dataset, first.split, first.subjects, _scored(first, models))
    numbers: set[int] = set()
    for each in seeds:
        if same != (each.surface, each.labels, each.dataset, each.split, each.subjects, _scored(each, models)):
            raise InvalidSettingsError(
                f"the workspaces of {each.task} were evaluated on other cases, subjects or labels, or with another "
                "NSD; their seeds cannot be joined"
            )
        if each.seeds[0] in numbers:
            raise InvalidSettingsError(
                f"two workspaces of {each.task} have the seed {each.seeds[0]}; set another one in the recipe's training"
            )
        numbers.add(each.seeds[0])
    return replace(
        first,
        seeds=tuple(each.seeds[0] for each in seeds),
        models=models,
        lacking={model: missing for model, missing in lacking.items() if missing},
        scores=tuple(each.scores[0] for each in seeds),
        efficiency=tuple(row for row in first.efficiency if row.model in models),
    )


def _filled(row: Score) -> Score:
    return replace(
        row,
        dice=or_agreement(row.dice, "dice"),
        nsd=or_agreement(row.nsd, "nsd"),
        hd95_mm=or_agreement(row.hd95_mm, "hd95_mm"),
    )


def _scored(results: TaskResults, models: Collection[str]) -> set[tuple[str, str, int]]:
    """Return what was scored of these models: model, case and label."""
    return {(row.model, row.case, row.label) for rows in results.scores for row in rows if row.model in models}

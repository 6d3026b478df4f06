"""Arms of one experiment, paired by seed and case: which way of training is better, by how much, and how surely.

A file of scores says all (JSON, so that documents keep it beside their figures)::

    {"title": "...", "data": "...", "setup": "...", "limits": "...", "baseline": "plain", "control": "control",
     "scores": {arm: {seed: {case: {structure: Dice, or null where it is in neither segmentation}}}}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from distillation.evaluation.paired_statistics import AGREEMENT, SEED, crossed, signed_rank_p
from distillation.evaluation.tables import interval_text, p_text
from distillation.report.result_tables import Table
from distillation.report.verdicts import SIGNIFICANT
from KDSegmentatorLib.analysis.overlap import mean_interval
from KDSegmentatorLib.errors import InvalidSettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.report.task_results import TaskResults
    from KDSegmentatorLib.packs.manifest import Interval

Scores = Mapping[str, Mapping[str, float | None]]
"""Dice by case and structure; None where a structure is in neither segmentation."""

_FEWEST_CASES = 2


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Networks that differ in how they were trained, on the same cases.

    Attributes:
        title: of its section.
        data: which cases were scored.
        setup: what the arms share, and how they differ.
        limits: what the figures do not say.
        baseline: the arm that all others are compared with.
        control: the arm with the same loss and no teacher; None if there is none.
        scores: by arm and seed.
        subjects: the subject of each case; a case that is not in it stands for itself.
    """

    title: str
    data: str
    baseline: str
    scores: Mapping[str, Mapping[str, Scores]]
    control: str | None = None
    setup: str = ""
    limits: str = ""
    subjects: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for role, arm in (("baseline", self.baseline), ("control", self.control)):
            if arm is not None and arm not in self.scores:
                raise InvalidSettingsError(f"the {role} {arm!r} is none of the arms {', '.join(self.scores)}")
        first = next(iter(self.scores[self.baseline].values()), {})
        if len({self.subject(case) for case in first}) < _FEWEST_CASES:
            raise InvalidSettingsError(f"{self.title}: cases of two subjects are needed to compare anything")
        expected = {case: set(row) for case, row in first.items()}
        for arm, seeds in self.scores.items():
            for seed, cases in seeds.items():
                if {case: set(row) for case, row in cases.items()} != expected:
                    raise InvalidSettingsError(
                        f"{self.title}: arm {arm}, seed {seed} was scored on other cases or structures than the "
                        f"baseline {self.baseline}; score all arms on the same ones"
                    )
            if not set(seeds) & set(self.scores[self.baseline]):
                raise InvalidSettingsError(f"{self.title}: arm {arm} has no seed in common with {self.baseline}")

    def subject(self, case: str) -> str:
        """Return whom a case shows."""
        return self.subjects.get(case, case)

    @property
    def seeds(self) -> tuple[str, ...]:
        """Seeds of any arm."""
        return tuple(dict.fromkeys(seed for seeds in self.scores.values() for seed in seeds))

    def mean(self, arm: str, seed: str) -> float | None:
        """Return an arm's mean Dice over subjects, each the mean over its cases and structures; None if not trained."""
        cases = self.scores[arm].get(seed)
        if cases is None:
            return None
        means = {case: _mean(list(row.values())) for case, row in cases.items()}
        by_subject = self._by_subject({case: value for case, value in means.items() if value is not None})
        return fmean(by_subject.values())

    def difference(self, arm: str, other: str) -> ArmDifference:
        """Compare two arms over the seeds that both have, paired by seed and case."""
        seeds = [seed for seed in self.scores[other] if seed in self.scores[arm]]
        tables = [self._by_subject(_differences(self.scores[arm][seed], self.scores[other][seed])) for seed in seeds]
        subjects = sorted(set.intersection(*(set(table) for table in tables)))
        means = [fmean(table[subject] for table in tables) for subject in subjects]
        both = crossed([[table[subject] for subject in subjects] for table in tables])[1] if len(seeds) > 1 else None
        return ArmDifference(
            arm=arm,
            other=other,
            seeds=len(seeds),
            over_cases=mean_interval(means, seed=SEED),
            better=sum(each > 0 for each in means),
            subjects=len(means),
            p_cases=signed_rank_p(means),
            p_both=both,
        )

    def _by_subject(self, values: Mapping[str, float]) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for case, value in values.items():
            groups.setdefault(self.subject(case), []).append(value)
        return {subject: fmean(own) for subject, own in groups.items()}


@dataclass(frozen=True, kw_only=True)
class ArmDifference:
    """Dice of one arm less that of another.

    Attributes:
        arm: the one.
        other: the other.
        seeds: that both have.
        over_cases: mean over seeds and subjects, with an interval over subjects of the mean over seeds.
        better: subjects whose mean over seeds is larger.
        subjects: all of them.
        p_cases: Wilcoxon's signed-rank test over subjects of the mean over seeds; None where they are too few for one.
        p_both: test over seeds x subjects, both drawn at random (:func:`crossed`); None of one seed.
    """

    arm: str
    other: str
    seeds: int
    over_cases: Interval
    better: int
    subjects: int
    p_cases: float | None
    p_both: float | None


def read_arms(path: Path) -> Arms:
    """Read a file of scores.

    Raises:
        InvalidSettingsError: it is missing, no such file or does not fit together; the message names what.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for arm, seeds in content["scores"].items():
            for seed, cases in seeds.items():
                for case, row in cases.items():
                    for structure, dice in row.items():
                        if dice is not None and not 0 <= dice <= 1:
                            raise ValueError(f"{arm}, seed {seed}, {case}, {structure}: Dice {dice} is not in 0 to 1")
        return Arms(**content)
    except FileNotFoundError:
        raise InvalidSettingsError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSettingsError(f"{path} is no file of scores of several arms: {error}") from error


def arms_of(results: TaskResults, size: str) -> Arms:
    """Return the networks of one size of an evaluation, joined over its seeds or not, as arms.

    Raises:
        InvalidSettingsError: there is no plain network of this size, or nothing beside it.
    """
    prefix = f"{size} "
    methods = [model.removeprefix(prefix) for model in results.models if model.startswith(prefix)]
    if "plain" not in methods or len(methods) < 2:
        raise InvalidSettingsError(
            f"{results.title} has {', '.join(results.models)}: there is no plain {size} with another one to compare"
        )
    scores: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {method: {} for method in methods}
    for seed, rows in zip(results.seeds, results.scores, strict=True):
        for row in rows:
            if row.model.startswith(prefix):
                cases = scores[row.model.removeprefix(prefix)].setdefault(str(seed), {})
                cases.setdefault(row.case, {})[results.labels[row.label]] = None if math.isnan(row.dice) else row.dice
    return Arms(
        title=f"{results.title}: {size}",
        data=f"{results.dataset}, {results.split}",
        baseline="plain",
        control="control" if "control" in methods else None,
        scores=scores,
        subjects=dict(results.subjects),
    )


def write_arms(arms: Arms) -> str:
    """Return the text of a file that :func:`read_arms` reads, Dice rounded to six digits."""
    content = {key: value for key, value in asdict(arms).items() if value}
    return json.dumps(_rounded(content), indent=1, ensure_ascii=False) + "\n"


def seed_table(arms: Arms) -> Table:
    """Return the mean Dice of every seed and arm."""
    rows = []
    for seed in arms.seeds:
        means = [arms.mean(arm, seed) for arm in arms.scores]
        rows.append((seed, *("not trained" if mean is None else f"{mean:.4f}" for mean in means)))
    caption = f"Mean Dice on {arms.data}. All arms of a seed start from the same weights and see the same batches."
    return Table(title="Seeds.", caption=caption, header=("Seed", *arms.scores), rows=tuple(rows))


def difference_table(arms: Arms) -> Table:
    """Return every arm against the baseline, and against the control if there is one."""
    rows = []
    for found in arm_differences(arms):
        rows.append(
            (
                f"{found.arm} - {found.other}",
                interval_text(found.over_cases, "dice", signed=True),
                str(found.seeds),
                f"{found.better} of {found.subjects}",
                p_text(found.p_cases),
                p_text(found.p_both),
            )
        )
    unit = "subjects" if arms.subjects else "cases"
    caption = (
        "Differences of Dice, paired by seed and case, mean over the seeds that both arms have; 95 % interval over "
        f"{unit}. p ({unit}): Wilcoxon's signed-rank test of the means over seeds, two-sided, zeros by Pratt. "
        f"p (seeds x {unit}): both drawn at random; '-' of one seed. Not adjusted for several comparisons."
    )
    header = ("Arms", "Dice", "Seeds", "Better in", f"p ({unit})", f"p (seeds x {unit})")
    return Table(title="Differences.", caption=caption, header=header, rows=tuple(rows))


def structure_table(arms: Arms) -> Table:
    """Return the mean Dice of every structure and arm, over the seeds that all arms have."""
    common = [seed for seed in arms.seeds if all(seed in seeds for seeds in arms.scores.values())]
    cases = next(iter(arms.scores[arms.baseline].values()))
    structures = list(dict.fromkeys(name for row in cases.values() for name in row))
    rows = []
    for structure in structures:
        cells = []
        for seeds in arms.scores.values():
            mean = _mean([row[structure] for seed in common for row in seeds[seed].values()])
            cells.append("-" if mean is None else f"{mean:.4f}")
        rows.append((structure, *cells))
    caption = f"Mean Dice over the cases that have it, seed {', '.join(common) or '-'}; '-' where none has."
    return Table(title="Structures.", caption=caption, header=("Structure", *arms.scores), rows=tuple(rows))


def arm_verdicts(arms: Arms) -> list[str]:
    """Return a sentence for every difference; of several seeds the test over seeds and cases decides."""
    sentences = []
    for found in arm_differences(arms):
        p = found.p_cases if found.p_both is None else found.p_both
        amount = f"{found.over_cases.mean:+.4f}, {found.better} of {found.subjects} better, p = {p_text(p)}"
        if p is None or p >= SIGNIFICANT:
            sentences.append(f"{found.arm}: no difference in Dice from {found.other} was shown ({amount}).")
        else:
            better = "better" if found.over_cases.mean > 0 else "WORSE"
            sentences.append(f"{found.arm} is {better} than {found.other} by Dice ({amount}).")
    return sentences


def arm_differences(arms: Arms) -> list[ArmDifference]:
    """Return the differences that :func:`difference_table` shows, against the baseline first."""
    pairs = [(arm, arms.baseline) for arm in arms.scores if arm != arms.baseline]
    if arms.control is not None:
        pairs += [(arm, arms.control) for arm in arms.scores if arm not in (arms.baseline, arms.control)]
    return [arms.difference(arm, other) for arm, other in pairs if set(arms.scores[arm]) & set(arms.scores[other])]


def _differences(one: Scores, other: Scores) -> dict[str, float]:
    """Return one - other by case, over the structures of which one has a score; the other's is agreement then."""
    found: dict[str, float] = {}
    for case in one:
        pairs = [(one[case][name], other[case][name]) for name in one[case]]
        values = [
            (AGREEMENT["dice"] if a is None else a) - (AGREEMENT["dice"] if b is None else b)
            for a, b in pairs
            if (a, b) != (None, None)
        ]
        if values:
            found[case] = fmean(values)
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _rounded(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    return round(content, 6) if isinstance(content, float) else content

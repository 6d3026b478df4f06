"""The targets of the project, with what was measured for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kdbench.families import ABDOMEN_CT, BRAIN_MR
from kdbench.parts.paper import STOCK
from kdbench.report.markdown import gigabytes, percent, ratio, seconds, shape, table, times
from kdbench.results import Advised, Outcome, Part, Results
from kdbench.setting import Scope

SMALLEST = "x1/4"
TIME_AIM, MEMORY_AIM = 0.3, 0.2
"""How far the advisor may be off."""

_LARGE_CT = shape(Scope().ct_scans[-1])


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A figure to hold against a target, and which of our ways it belongs to (its number format, as a rule)."""

    way: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something to be reached.

    Attributes:
        what: for people.
        limit: of the figure.
        at_least: whether the figure has to reach the limit; otherwise it must not exceed it.
        shown: turns a figure into text.
        findings: what was measured; empty if nothing was.
    """

    what: str
    limit: float
    at_least: bool
    shown: Callable[[float | None], str]
    findings: tuple[Finding, ...]

    def reached(self, finding: Finding) -> bool:
        """Return whether a figure is good enough."""
        return finding.value >= self.limit if self.at_least else finding.value <= self.limit

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, ``not measured``, or with which ways it is met."""
        good = [finding.way for finding in self.findings if self.reached(finding)]
        if not self.findings:
            return "not measured"
        if len(good) == len(self.findings):
            return "**met**"
        return f"met with {', '.join(good)}" if good else "**missed**"


def targets(results: Results) -> list[Target]:
    """Return all targets with what was measured for them, with OpenVINO where several engines were measured."""
    return [
        Target(
            what="x1/4, ours against the teacher in stock nnU-Net, end to end",
            limit=50,
            at_least=True,
            shown=times,
            findings=_speed_ups(results, ours=SMALLEST, stock="x1"),
        ),
        *(
            Target(
                what=f"{size}, ours against stock nnU-Net with the same {'teacher' if size == 'x1' else 'student'}",
                limit=3 if size == "x1" else 10,
                at_least=True,
                shown=times,
                findings=_speed_ups(results, ours=size, stock=size),
            )
            for size in ("x1/4", "x1/2", "x1")
        ),
        Target(
            what=f"Peak memory of x1/4 on {shape(Scope().brain_scan)} with {BRAIN_MR.outputs} outputs (GB)",
            limit=1.5e9,
            at_least=False,
            shown=gigabytes,
            findings=_each(_ours(results, "paper", size=SMALLEST), lambda outcome: outcome.peak_bytes),
        ),
        Target(
            what=f"Peak memory of a {_LARGE_CT} CT with {ABDOMEN_CT.outputs} classes (GB)",
            limit=4e9,
            at_least=False,
            shown=gigabytes,
            findings=_each(_ours(results, "volumes", scan_size=_LARGE_CT), lambda outcome: outcome.peak_bytes),
        ),
        Target(
            what="Time of 111 classes over that of 14",
            limit=1.3,
            at_least=False,
            shown=times,
            findings=_each(
                _ours(results, "classes", classes="111"),
                lambda outcome: ratio(outcome.wall_seconds, _wall_of_14_classes(results, outcome)),
            ),
        ),
        *(
            Target(
                what=f"Share of the network in the end-to-end time of {size}",
                limit=0.75,
                at_least=True,
                shown=percent,
                findings=_each(
                    _ours(results, "paper", size=size),
                    lambda outcome: ratio(outcome.detail("windows"), outcome.wall_seconds),
                ),
            )
            for size in ("x1/4", "x1/2", "x1")
        ),
        Target(
            what="Share of the matrix-multiply peak that the x1/4 body reaches in bfloat16",
            limit=0.55,
            at_least=True,
            shown=percent,
            findings=_peak_shares_in(results, "bfloat16"),
        ),
        Target(
            what="A skull-stripped brain, file to file, over the body's own time",
            limit=2.5,
            at_least=False,
            shown=times,
            findings=_each(
                results.found("brain", what="file to file"),
                lambda outcome: ratio(outcome.wall_seconds, _body_seconds(results, outcome)),
            ),
        ),
        Target(
            what="`import KDSegmentatorLib` (s)",
            limit=0.15,
            at_least=False,
            shown=seconds,
            findings=_each(results.found("start", what="import KDSegmentatorLib"), _seconds, way=""),
        ),
        Target(
            what="`kdseg --help` (s)",
            limit=0.4,
            at_least=False,
            shown=seconds,
            findings=_each(results.found("start", what="kdseg --help"), _seconds, way=""),
        ),
        *_advisor_targets(results),
        Target(
            what=f"HD95 and NSD of {Scope().structures} labels on {shape(Scope().brain_scan)}, faster than MONAI (CPU)",
            limit=5,
            at_least=True,
            shown=times,
            findings=tuple(
                Finding(way=outcome.labels["surface"], value=faster)
                for outcome in results.found("surface")
                if (faster := ratio(outcome.detail("monai"), outcome.detail("ours"))) is not None
            ),
        ),
    ]


def targets_table(results: Results) -> list[str]:
    """Return the table of all targets."""
    rows = [
        [
            target.what,
            f"{'≥' if target.at_least else '≤'} {target.shown(target.limit)}",
            ", ".join(f"{finding.way} {target.shown(finding.value)}".strip() for finding in target.findings),
            target.verdict,
        ]
        for target in targets(results)
    ]
    return table(["Target", "Limit", "Measured", ""], rows, texts=4)


def peak_shares(part: Part) -> tuple[Finding, ...]:
    """Return the share of the matrix-multiply peak that the body reaches, by number format.

    Args:
        part: ``arithmetic``.
    """
    found = []
    for body in part.found(what="body"):
        product = part.first(what="product", precision=body.labels["precision"])
        reached = ratio(body.detail("flops"), body.detail("seconds"))
        share = ratio(reached, None if product is None else product.detail("flops_per_second"))
        if share is not None:
            found.append(Finding(way=body.labels["precision"], value=share))
    return tuple(found)


def _peak_shares_in(results: Results, precision: str) -> tuple[Finding, ...]:
    part = results.parts.get("arithmetic")
    return () if part is None else tuple(finding for finding in peak_shares(part) if finding.way == precision)


def _advisor_targets(results: Results) -> list[Target]:
    part = results.parts.get("advisor")
    advised = () if part is None else advised_cases(part)
    times_off = [abs(case.time_error) for case in advised]
    memories_off = [abs(error) for case in advised if (error := case.memory_error) is not None]
    return [
        Target(
            what=f"Advisor: largest error in {what}, over shipped packs and volumes",
            limit=limit,
            at_least=False,
            shown=percent,
            findings=(Finding(way="", value=max(errors)),) if errors else (),
        )
        for what, errors, limit in (("time", times_off, TIME_AIM), ("memory", memories_off, MEMORY_AIM))
    ]


def advised_cases(part: Part) -> tuple[Advised, ...]:
    """Return the advisor's cases.

    Args:
        part: ``advisor``.
    """
    return tuple(case for outcome in part.measured() for case in outcome.runs[-1].inside.advised)


def _ours(results: Results, part: str, **labels: str) -> list[Outcome]:
    return results.found(part, software="kdseg", engine="openvino", **labels)


def _speed_ups(results: Results, *, ours: str, stock: str) -> tuple[Finding, ...]:
    reference = results.first("paper", size=stock, software=STOCK)
    if reference is None:
        return ()
    return _each(
        _ours(results, "paper", size=ours), lambda outcome: ratio(reference.wall_seconds, outcome.wall_seconds)
    )


def _each(
    outcomes: Iterable[Outcome], value: Callable[[Outcome], float | None], way: str | None = None
) -> tuple[Finding, ...]:
    found = ((outcome, value(outcome)) for outcome in outcomes)
    return tuple(
        Finding(way=outcome.labels.get("precision", "") if way is None else way, value=number)
        for outcome, number in found
        if number is not None
    )


def _wall_of_14_classes(results: Results, outcome: Outcome) -> float | None:
    fewer = results.first("classes", classes="14", precision=outcome.labels["precision"])
    return None if fewer is None else fewer.wall_seconds


def _body_seconds(results: Results, outcome: Outcome) -> float | None:
    body = results.first("brain", what="body", precision=outcome.labels["precision"])
    return None if body is None else body.detail("seconds")


def _seconds(outcome: Outcome) -> float | None:
    return outcome.detail("seconds")

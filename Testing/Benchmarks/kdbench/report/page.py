"""The page, written from the results alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdbench.report.body import arithmetic_section, brain_section
from kdbench.report.comparisons import paper_section, shipped_section
from kdbench.report.growth import classes_section, volumes_section
from kdbench.report.markdown import UNKNOWN, count, gigabytes, percent, ratio, seconds, shape, table, times
from kdbench.report.scale import scale_section
from kdbench.report.targets import MEMORY_AIM, TIME_AIM, advised_cases, targets_table
from kdbench.results import Part, Results

PICTURE = "images/benchmarks.png"
_SURFACES = {"voxels": "surface voxels", "subvoxel": "sub-voxel patches"}


def page(results: Results) -> str:
    """Return the page as Markdown.

    Args:
        results: everything that was measured so far.
    """
    lines = [
        "# Benchmarks",
        "",
        "<!-- Written by `make bench` from benchmarks.json; do not edit by hand. -->",
        "",
        "Every figure is the median over runs in processes of their own, started anew; the rows of a table took turns, "
        "so that other work on the machine (see its load) hits all of them alike and the ratios are what to compare. "
        "*Wall* is the time from a process's start to its end, imports, reading and writing of files included; *CPU* "
        "is user and system time of all its threads and of the processes that it started; *memory* is the peak "
        "resident size of the process itself (nnU-Net's helper processes come on top of it and are not counted). GB "
        "are 10^9 bytes. `make bench` measures all parts again, `make bench ARGS=--quick` with fewer runs; "
        '`make bench ARGS="--only classes --rounds 3"` one part.',
        "",
        "## Targets",
        "",
        *targets_table(results),
        "",
        f"![Time and memory]({PICTURE})",
    ]
    for name, section in _SECTIONS.items():
        if name in results.parts:
            part = results.parts[name]
            lines += ["", *section(part), *_problems(part), "", *_origin(part)]
    if "paper" in results.parts:
        lines += ["", *scale_section(results.parts["paper"])]
    return "\n".join(lines) + "\n"


def start_section(part: Part) -> list[str]:
    """Return the section of the part ``start``."""
    rows = [
        [f"`{outcome.labels['what']}`", seconds(outcome.detail("seconds")), seconds(outcome.detail("process"))]
        for outcome in part.measured()
    ]
    return ["## Start-up", "", *table(["", "Seconds", "The whole process (s)"], rows)]


def surface_section(part: Part) -> list[str]:
    """Return the section of the part ``surface``."""
    outcomes = part.measured()
    pairs = sorted(
        {
            f"{shape(outcome.facts[axis] for axis in 'xyz')} voxels, {outcome.facts['labels']:.0f} labels, "
            f"mean Dice {outcome.detail('mean_dice'):.3f}"
            for outcome in outcomes
        }
    )
    rows = []
    for outcome in outcomes:
        monai, ours = outcome.detail("monai"), outcome.detail("ours")
        monai_wall, ours_wall = outcome.detail("monai_wall"), outcome.detail("ours_wall")
        cells = [seconds(monai), seconds(ours), times(ratio(monai, ours))]
        cells += [seconds(monai_wall), seconds(ours_wall), times(ratio(monai_wall, ours_wall))]
        rows.append([_SURFACES[outcome.labels["surface"]], *cells])
    return [
        "## HD95 and NSD against MONAI",
        "",
        f"A made-up pair of segmentations ({'; '.join(pairs)}), both metrics of all labels; the values are equal, "
        "which is checked. MONAI gets its one-hot arrays ready-made and has one torch thread; ours computes Dice on "
        "top. Both run in one process, after a run of both that does not count. CPU is the time of all threads.",
        "",
        *table(
            ["NSD of", "MONAI, CPU (s)", "Ours, CPU (s)", "Faster", "MONAI, wall (s)", "Ours, wall (s)", "Faster"], rows
        ),
    ]


def loss_section(part: Part) -> list[str]:
    """Return the section of the part ``loss``."""
    outcomes = sorted(part.measured(), key=lambda outcome: outcome.facts["classes"])
    patches = sorted({shape(outcome.facts[axis] for axis in "zyx") for outcome in outcomes})
    rows = []
    for outcome in outcomes:
        stock, ours = outcome.detail("stock"), outcome.detail("ours")
        stock_wall, ours_wall = outcome.detail("stock_wall"), outcome.detail("ours_wall")
        cells = [seconds(stock), seconds(ours), times(ratio(stock, ours))]
        cells += [seconds(stock_wall), seconds(ours_wall), times(ratio(stock_wall, ours_wall))]
        rows.append([count(outcome.facts["classes"]), *cells])
    return [
        "## Dice and cross-entropy against nnU-Net",
        "",
        f"One made-up patch ({'; '.join(patches)} voxels) at full resolution, from logits in bfloat16 with channels "
        "last to their gradient; value and gradient are the same, which is checked. nnU-Net's loss gets the logits "
        "widened to float32, which counts. Both run in one process with one torch thread, in turns, after a run of "
        "both that does not count. CPU is the time of all threads. Trainings use ours from 8 classes on.",
        "",
        *table(
            ["Classes", "nnU-Net, CPU (s)", "Ours, CPU (s)", "Faster", "nnU-Net, wall (s)", "Ours, wall (s)", "Faster"],
            rows,
        ),
    ]


def advisor_section(part: Part) -> list[str]:
    """Return the section of the part ``advisor``."""
    cases = advised_cases(part)
    memories = [error for case in cases if (error := case.memory_error) is not None]
    time_met = sum(abs(case.time_error) <= TIME_AIM for case in cases)
    memory_met = sum(abs(error) <= MEMORY_AIM for error in memories)
    rows = [
        [
            case.title,
            str(case.windows),
            seconds(case.estimated_seconds),
            seconds(case.measured_seconds),
            _signed(case.time_error),
            gigabytes(case.estimated_bytes),
            gigabytes(case.measured_bytes),
            _signed(case.memory_error),
        ]
        for case in cases
    ]
    return [
        "## What the advisor says, and what it takes",
        "",
        f"Shipped packs and the paper's x1/4 on generated scans. Time is within {percent(TIME_AIM)} in {time_met} of "
        f"{len(cases)} cases, memory within {percent(MEMORY_AIM)} in {memory_met} of {len(memories)}. An error is the "
        "estimate over the measurement, minus 1.",
        "",
        *table(
            [
                "Case",
                "Windows",
                "Estimate (s)",
                "Measured (s)",
                "Error",
                "Estimate (GB)",
                "Measured (GB)",
                "Error",
            ],
            rows,
        ),
    ]


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.0%}"


def _problems(part: Part) -> list[str]:
    """Return what was not measured, or not as often as it should have been, and why."""
    subjects: dict[str, list[str]] = {}
    for name, outcome in part.outcomes.items():
        if outcome.problem is not None:
            subjects.setdefault(outcome.problem, []).append(name)
    lines = [f"- {problem} ({'; '.join(names)})" for problem, names in subjects.items()]
    return ["", "Not measured, or not to the end:", "", *lines] if lines else []


def _origin(part: Part) -> list[str]:
    """Return on what machine, when, and with which versions a part was measured."""
    outcomes = part.measured()
    if not outcomes:
        return ["Nothing was measured."]
    days = sorted({outcome.date[:10] for outcome in outcomes})
    loads = [outcome.load_average for outcome in outcomes if outcome.load_average is not None]
    load = f"; load average before the runs {_range([f'{value:.1f}' for value in sorted(loads)])}" if loads else ""
    versions: dict[str, set[str]] = {}
    for outcome in outcomes:
        for package, version in outcome.versions.items():
            versions.setdefault(package, set()).add(version)
    used = ", ".join(f"{package} {_range(sorted(found))}" for package, found in versions.items())
    machine = part.machine
    runs = sorted({len(outcome.runs) for outcome in outcomes})
    counted = str(runs[0]) if runs[0] == runs[-1] else f"{runs[0]} to {runs[-1]}"
    return [
        f"*{machine.processor}, {machine.logical_cores} logical cores ({', '.join(machine.abilities)}), "
        f"{machine.system}; {_range(days)}{load}; runs of each: {counted}. {used}.*"
    ]


def _range(values: Sequence[str]) -> str:
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


_SECTIONS: dict[str, Callable[[Part], list[str]]] = {
    "paper": paper_section,
    "shipped": shipped_section,
    "volumes": volumes_section,
    "classes": classes_section,
    "arithmetic": arithmetic_section,
    "brain": brain_section,
    "start": start_section,
    "advisor": advisor_section,
    "surface": surface_section,
    "loss": loss_section,
}

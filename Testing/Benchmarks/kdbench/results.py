"""What was measured, and the file that keeps it: parts may be measured on different days."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.strict_json import FieldError, build, parse


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What the operations of one kind and one resolution of a network cost in one window.

    Attributes:
        kind: the engine's name for it, for example ``Convolution``.
        coarseness: 1 for the window's own resolution, 2 for half of it, ...; 0 where there is no grid.
        seconds: wall time of all of them.
        flops: 2 x multiply-accumulate.
        bytes: size of everything that they read and write, each array counted once an operation.
    """

    kind: str
    coarseness: int
    seconds: float
    flops: float
    bytes: float


@dataclass(frozen=True, kw_only=True)
class Advised:
    """What the advisor said of a pack on a scan, and what that took.

    Attributes:
        title: pack, scan and way.
        windows: network calls.
        estimated_seconds: wall time.
        measured_seconds: wall time of the process.
        estimated_bytes: peak memory.
        measured_bytes: peak resident size; None where the system does not tell.
    """

    title: str
    windows: int
    estimated_seconds: float
    measured_seconds: float
    estimated_bytes: float
    measured_bytes: float | None

    @property
    def time_error(self) -> float:
        """Estimate over measurement, minus 1."""
        return self.estimated_seconds / self.measured_seconds - 1

    @property
    def memory_error(self) -> float | None:
        """Estimate over measurement, minus 1; None where the memory is not known."""
        return None if not self.measured_bytes else self.estimated_bytes / self.measured_bytes - 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a process measured inside of itself.

    Attributes:
        details: name to figure; seconds where the name does not tell another unit.
        operations: where a network's time went.
        advised: the advisor's estimates.
    """

    details: dict[str, float] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()
    advised: tuple[Advised, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process from its start to its end.

    Attributes:
        wall_seconds: as its parent saw it, the interpreter's start included.
        cpu_seconds: user and system time of all threads and of the processes that it started and waited for.
        peak_bytes: largest resident size of the process itself; None where the system does not tell.
        inside: what it measured itself.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    inside: Measured


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All runs of one subject.

    Attributes:
        labels: what it is, by column: ``size``, ``software``, ``precision``, ...
        facts: figures that belong to it and were not measured: parameters, voxels, ...
        runs: in the order they were made.
        problem: why there are no runs, or no more; None if all were made.
        date: UTC, ISO 8601, of the last run.
        load_average: of the machine (one minute) before the first run; None where the system does not tell.
        versions: package to version.
    """

    labels: dict[str, str]
    facts: dict[str, float]
    runs: tuple[Run, ...]
    problem: str | None
    date: str
    load_average: float | None
    versions: dict[str, str]

    @property
    def wall_seconds(self) -> float | None:
        """Median over the runs; None without any."""
        return _median([run.wall_seconds for run in self.runs])

    @property
    def cpu_seconds(self) -> float | None:
        """Median over the runs; None without any."""
        return _median([run.cpu_seconds for run in self.runs])

    @property
    def peak_bytes(self) -> float | None:
        """Median over the runs; None without any."""
        return _median([run.peak_bytes for run in self.runs if run.peak_bytes is not None])

    def detail(self, name: str) -> float | None:
        """Return the median of a figure that the runs measured inside; None if none has it."""
        return _median([run.inside.details[name] for run in self.runs if name in run.inside.details])

    def is_a(self, **labels: str) -> bool:
        """Return whether it has all these labels."""
        return all(self.labels.get(name) == value for name, value in labels.items())


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What results may be compared across: another machine is another table.

    Attributes:
        processor: its name.
        logical_cores: that may be used.
        system: operating system and its version.
        abilities: number formats that OpenVINO finds instructions for.
    """

    processor: str
    logical_cores: int
    system: str
    abilities: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The outcomes of one part of the benchmark, by the subject's name, all of one machine."""

    machine: Machine
    outcomes: dict[str, Outcome]

    def found(self, **labels: str) -> list[Outcome]:
        """Return the outcomes with all these labels."""
        return [outcome for outcome in self.outcomes.values() if outcome.is_a(**labels)]

    def first(self, **labels: str) -> Outcome | None:
        """Return the first outcome with all these labels, None if there is none."""
        return next(iter(self.found(**labels)), None)

    def measured(self) -> list[Outcome]:
        """Return the outcomes that have runs."""
        return [outcome for outcome in self.outcomes.values() if outcome.runs]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that was measured so far, by the part's name."""

    parts: dict[str, Part] = field(default_factory=dict)

    def found(self, part: str, **labels: str) -> list[Outcome]:
        """Return the outcomes of a part with all these labels; none if it was not measured."""
        return self.parts[part].found(**labels) if part in self.parts else []

    def first(self, part: str, **labels: str) -> Outcome | None:
        """Return the first outcome of a part with all these labels, None if there is none."""
        return next(iter(self.found(part, **labels)), None)

    def having(self, part: str, machine: Machine, outcomes: dict[str, Outcome]) -> Results:
        """Return the results with new outcomes in a part.

        They replace those of the same subjects, unless there is nothing in them. What another machine measured in this
        part is dropped: a table with two machines in it compares nothing.
        """
        before = self.parts.get(part)
        kept = before.outcomes if before is not None and before.machine == machine else {}
        new = {name: each for name, each in outcomes.items() if each.runs or name not in kept or not kept[name].runs}
        return replace(self, parts={**self.parts, part: Part(machine=machine, outcomes={**kept, **new})})


def read_results(path: Path) -> Results:
    """Read a file of results; nothing was measured yet if there is none.

    Raises:
        InvalidSettingsError: the file is damaged, or of an earlier version of the benchmark.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Results()
    try:
        return build(Results, parse(text))
    except FieldError as error:
        raise InvalidSettingsError(f"{path}: {error}; delete it and measure again") from None


def write_results(results: Results, path: Path) -> None:
    """Write a file of results, as a whole or not at all.

    Raises:
        ImageWriteError: it cannot be written.
    """
    text = json.dumps(dataclasses.asdict(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_output(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def _median(values: list[float]) -> float | None:
    return median(values) if values else None

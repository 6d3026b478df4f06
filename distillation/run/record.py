"""What is known about a step: a small JSON file that says what went in, what came out, and how long it took."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from distillation.files import write_json

State = Literal["done", "changed", "started", "new"]


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step as it was run last.

    Attributes:
        step: its name.
        finished: whether it came to its end.
        inputs: hash by name of everything that its result depends on.
        outputs: files and folders that it leaves.
        seconds: wall time of the last run; of the part since the last interruption if there was one. None if it was
            done before there were records.
        peak_bytes: largest memory of the process so far.
    """

    step: str
    finished: bool
    inputs: dict[str, str]
    outputs: tuple[str, ...] = ()
    seconds: float | None = None
    peak_bytes: int | None = None
    machine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a step stands.

    Attributes:
        state: ``done`` (with the same inputs, outputs present), ``changed`` (finished or started with other inputs),
            ``started`` (broken off, same inputs), ``new``.
        changes: names of the inputs that are not the same any more.
        missing: outputs that are not there any more.
        record: of the last run.
    """

    state: State
    changes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    record: StepRecord | None = None


class Records:
    """The records of a workspace.

    Args:
        folder: holds one file a step.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._workspace = folder.parent.absolute()

    def read(self, step: str) -> StepRecord | None:
        """Return a step's record; None if there is none, or it is damaged: the step is run again then."""
        try:
            content = json.loads(self._path(step).read_text(encoding="utf-8"))
            return StepRecord(
                step=str(content["step"]),
                finished=bool(content["finished"]),
                inputs={str(name): str(value) for name, value in content["inputs"].items()},
                outputs=tuple(str(self._workspace / path) for path in content["outputs"]),
                seconds=content["seconds"],
                peak_bytes=content["peak_bytes"],
                machine=dict(content["machine"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, record: StepRecord) -> None:
        """Write a record, whole or not at all.

        Raises:
            ImageWriteError: the disk is full or not writable.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        outputs = [self._relative(Path(path)) for path in record.outputs]
        write_json(self._path(record.step), {**asdict(record), "outputs": outputs})

    def forget(self, step: str) -> None:
        """Remove a step's record: what it left was changed by other means."""
        self._path(step).unlink(missing_ok=True)

    def status(self, step: str, inputs: dict[str, str]) -> Status:
        """Compare a step's record with its inputs as they are now."""
        record = self.read(step)
        if record is None:
            return Status(state="new")
        names = sorted(record.inputs.keys() | inputs.keys())
        changes = tuple(name for name in names if record.inputs.get(name) != inputs.get(name))
        if changes:
            return Status(state="changed", changes=changes, record=record)
        missing = tuple(path for path in record.outputs if not Path(path).exists())
        if record.finished and not missing:
            return Status(state="done", record=record)
        return Status(state="started", missing=missing, record=record)

    def _relative(self, path: Path) -> str:
        """Return a path as it is written: relative inside the workspace, which may be moved."""
        path = path.absolute()
        return path.relative_to(self._workspace).as_posix() if path.is_relative_to(self._workspace) else str(path)

    def _path(self, step: str) -> Path:
        return self._folder / f"{re.sub(r'[^a-z0-9]+', '-', step.lower())}.json"

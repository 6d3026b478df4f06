"""The worker's side of the conversation: one JSON object a line, among whatever its libraries print.

A line looks like ``{"kdseg": 1, "event": "progress", "run": 0, "runs": 1, "stage": "windows", "done": 5, ...}``. It is
ASCII, starts on a fresh line, and is written in one piece, so that text of native libraries seldom breaks it. What is
not such a line belongs in the log.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from KDSegmentatorLib.jobs.events import Log, Progressed, RunChanged, Started
from KDSegmentatorLib.jobs.request import PROTOCOL_VERSION, check_protocol
from KDSegmentatorLib.packs.strict_json import FieldError, Rule, build, parse


@dataclass(frozen=True, kw_only=True)
class Complete:
    """The result's file is complete."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The worker gives up.

    Attributes:
        kind: name of the error's class in :mod:`KDSegmentatorLib.errors`.
        message: for people.
    """

    kind: str
    message: str


Message = Started | Log | Progressed | RunChanged | Complete | Broken

_CLASSES: dict[str, type[Message]] = {
    "started": Started,
    "log": Log,
    "progress": Progressed,
    "run": RunChanged,
    "result": Complete,
    "error": Broken,
}
_NAMES = {cls: name for name, cls in _CLASSES.items()}
_VERSION_KEY = "kdseg"


def format_line(message: Message) -> bytes:
    """Return a message as it is written: on a line of its own, even after text without a line's end."""
    content = {_VERSION_KEY: PROTOCOL_VERSION, "event": _NAMES[type(message)], **dataclasses.asdict(message)}
    return f"\n{json.dumps(content)}\n".encode("ascii")


def parse_line(line: str) -> Message | None:
    """Return the message of a line, the line itself as a log entry, or None for an empty one.

    Args:
        line: with or without its end.

    Raises:
        JobError: the worker speaks another version.
    """
    text = line.strip()
    if not text:
        return None
    other = Log(level="output", message=text)
    if not text.startswith("{"):
        return other
    try:
        content = parse(text)
    except FieldError:
        return other
    if not isinstance(content, dict) or _VERSION_KEY not in content:
        return other
    check_protocol(content.pop(_VERSION_KEY))
    cls = _CLASSES.get(str(content.pop("event", "")))
    if cls is None:
        return other
    try:
        message: Message = build(cls, content, {}, Rule())
    except FieldError:
        return other
    return message

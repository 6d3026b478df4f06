"""A job: a scan under a rule, and the states that it goes through."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

State = Literal[
    "received",
    "segmenting",
    "written",
    "delivering",
    "waiting",
    "delivered",
    "confirmed",
    "refused",
    "failed",
    "superseded",
    "withdrawn",
]
STATES: tuple[State, ...] = get_args(State)
OPEN_STATES: tuple[State, ...] = ("received", "segmenting", "written", "delivering", "waiting")
"""What may still change by itself."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A scan under a rule.

    Attributes:
        id: its number, by which people name it.
        key: identifies the content of the input and the rule.
        subject: identifies the series and the rule, whatever the content: a newer job takes the place of an older one.
        rule: name of the rule.
        source: where the input is and what it is (:mod:`KDSegmentatorLib.node.inputs`), as JSON; may hold names.
        priority: smaller is earlier.
        state: see :mod:`KDSegmentatorLib.node.queue`.
        reason: why it is in that state, for people; without patient data.
        attempt: how often it was begun; the fence.
        lease: until when its worker is believed to be alive, seconds since 1970.
        progress: of the segmentation, 0 to 1.
        pack: id and version of the pack, from the moment it was begun.
        pack_sha256: hash of that pack's manifest.
        received: seconds since 1970.
        started: the last time it was begun; None before.
        written: when its results were complete; None before.
        changed: when its state last changed.
    """

    id: int
    key: str
    subject: str
    rule: str
    source: str
    priority: int
    state: State
    reason: str
    attempt: int
    lease: float
    progress: float
    pack: str
    pack_sha256: str
    received: float
    started: float | None
    written: float | None
    changed: float

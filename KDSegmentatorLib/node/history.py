"""The audit log: a row for every change of the queue, written in the change's own transaction, never altered.

Each row holds the hash of the row before it, so that a row that was altered, or taken out, shows. Rows name jobs by
their numbers, inputs and outputs by UIDs and SHA-256: nothing here tells who the patient is.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from KDSegmentatorLib.errors import NodeError

SCHEMA = """
CREATE TABLE IF NOT EXISTS changes (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    job INTEGER,
    event TEXT NOT NULL,
    detail TEXT NOT NULL,
    sha256 TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS changes_of_job ON changes (job);
CREATE TRIGGER IF NOT EXISTS changes_stay BEFORE UPDATE ON changes
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS changes_remain BEFORE DELETE ON changes
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""

_FIRST = "0" * 64


def append(connection: sqlite3.Connection, time: float, job: int | None, event: str, detail: dict[str, Any]) -> None:
    """Add a row; the caller holds the transaction, so that rows of several processes form one chain.

    Args:
        connection: in a transaction that holds the write lock (``BEGIN IMMEDIATE``).
        time: seconds since 1970, UTC.
        job: its number; None for what concerns the node.
        event: a state of the job, or what happened.
        detail: UIDs, hashes, names of rules, packs and targets.
    """
    last = connection.execute("SELECT sha256 FROM changes ORDER BY id DESC LIMIT 1").fetchone()
    text = json.dumps(detail, sort_keys=True, ensure_ascii=True)
    digest = _digest(last[0] if last else _FIRST, time, job, event, text)
    connection.execute(
        "INSERT INTO changes (time, job, event, detail, sha256) VALUES (?, ?, ?, ?, ?)",
        (time, job, event, text, digest),
    )


def entries(connection: sqlite3.Connection, job: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows, oldest first, of one job or of all, and check the chain on the way if it is all.

    Raises:
        NodeError: a row was altered or taken out; the message names the first one.
    """
    where, values = ("", ()) if job is None else ("WHERE job = ?", (job,))
    before = _FIRST
    expected = 1
    query = f"SELECT id, time, job, event, detail, sha256 FROM changes {where} ORDER BY id"  # noqa: S608 - no input
    for number, time, of_job, event, detail, sha256 in connection.execute(query, values):
        if job is None:
            if number != expected or _digest(before, time, of_job, event, detail) != sha256:
                raise NodeError(
                    f"the audit log was altered at entry {expected}: it does not follow from the one before it. Keep a "
                    "copy of the node's folder, and ask who had access to it"
                )
            before, expected = sha256, number + 1
        yield {"id": number, "time": time, "job": of_job, "event": event, **json.loads(detail), "sha256": sha256}


def _digest(before: str, time: float, job: int | None, event: str, detail: str) -> str:
    return hashlib.sha256(json.dumps([before, repr(time), job, event, detail]).encode("ascii")).hexdigest()

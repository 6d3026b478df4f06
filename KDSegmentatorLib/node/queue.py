"""The durable queue: one SQLite file that every process of the node works on.

States of a job::

    received -> segmenting -> written -> delivering -> delivered -> confirmed
                    |                        |
                    +-> refused, failed      +-> waiting (a target does not answer) -> failed
    superseded (a newer state of its series came), withdrawn (its input was deleted)

A job is taken with a lease and a number of the attempt. Whoever comes back after its lease was given to another
cannot change the job any more: every change names the attempt. The key of a job, its content and its rule, is unique:
the same scan under the same rule is one job, however often it is sent.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from KDSegmentatorLib.errors import NodeError
from KDSegmentatorLib.node import history
from KDSegmentatorLib.node.job import OPEN_STATES, STATES, Job, State

MOST_ATTEMPTS = 3
"""How often a job is begun: one that ends its worker's process each time must not do so for ever."""

_BUSY_SECONDS = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    subject TEXT NOT NULL,
    rule TEXT NOT NULL,
    source TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    attempt INTEGER NOT NULL DEFAULT 0,
    attempts_left INTEGER NOT NULL,
    lease REAL NOT NULL DEFAULT 0,
    worker TEXT NOT NULL DEFAULT '',
    progress REAL NOT NULL DEFAULT 0,
    pack TEXT NOT NULL DEFAULT '',
    pack_sha256 TEXT NOT NULL DEFAULT '',
    received REAL NOT NULL,
    started REAL,
    written REAL,
    changed REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, priority, id);
CREATE INDEX IF NOT EXISTS jobs_by_subject ON jobs (subject);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


_COLUMNS = ", ".join(Job.__struct_fields__)


class LeaseLostError(Exception):
    """The job was given to another worker, superseded or withdrawn in the meantime: what was done for it is void."""


Cause = Literal["disk", "pack", "orthanc", "operator"]


class Suspension(msgspec.Struct, frozen=True, kw_only=True):
    """Why no job is begun: something that would fail every job. Cleared when the cause is gone."""

    cause: Cause
    reason: str
    since: float


class Queue:
    """Jobs in a file; threads and processes share it.

    Args:
        path: the file; made if needed, readable by this user only. On a disk of this machine: SQLite's write-ahead log
            does not work over a network.
        clock: seconds since 1970.

    Raises:
        NodeError: the file is damaged, not a queue, or cannot be opened.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.clock = clock
        self._local = threading.local()
        try:
            path.touch(mode=0o600)
            connection = self.connection
            connection.executescript(_SCHEMA + history.SCHEMA)
        except (OSError, sqlite3.DatabaseError) as error:
            raise NodeError(
                f"the queue {path} cannot be opened ({error}); check the disk and the permissions. If the file is "
                "damaged, put it aside: Orthanc's series and the watched folder are looked through again"
            ) from error

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self._local.connection = connection
        return connection

    def close(self) -> None:
        """Close this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    @contextlib.contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock while the block runs; all of it is stored at its end, or nothing."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def admit(
        self,
        *,
        content: str,
        series: str,
        source: str,
        rules: Mapping[str, int],
        refusal: str = "",
        audit: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Add a job for every rule that fits a scan, unless its content is known.

        Older jobs of the same series and rule that are not delivered are superseded. Where no rule fits, one refused
        job says so.

        Args:
            content: identifies the scan with all it consists of.
            series: identifies the scan, whatever it consists of by now.
            source: where it is and what it is, as JSON.
            rules: name and priority of those that fit.
            refusal: why none does.
            audit: what the log shall say of it: UIDs and hashes.

        Returns:
            The numbers of the new jobs; none if the content is known.
        """
        with self.changing() as connection:
            if self.knows(content):
                return []
            return self.admit_known(
                connection, content=content, series=series, source=source, rules=rules, refusal=refusal, audit=audit
            )

    def knows(self, content: str) -> bool:
        """Return whether a content has jobs that were not withdrawn."""
        found = self.connection.execute(
            "SELECT 1 FROM jobs WHERE key >= ? || ':' AND key < ? || ';' AND state != 'withdrawn' LIMIT 1",
            (content, content),
        )
        return found.fetchone() is not None

    def admit_known(
        self,
        connection: sqlite3.Connection,
        *,
        content: str,
        series: str,
        source: str,
        rules: Mapping[str, int],
        refusal: str = "",
        audit: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Add jobs as :meth:`admit` does, of a content that has other jobs, in a transaction that the caller holds."""
        now = self.clock()
        numbers = []
        for rule, priority in (rules or {"": 0}).items():
            subject = f"{series}:{rule}"
            inserted = connection.execute(
                "INSERT OR IGNORE INTO jobs "
                "(key, subject, rule, source, priority, state, reason, attempts_left, received, changed) "
                "VALUES (?, ?, ?, ?, ?, 'received', '', ?, ?, ?)",
                (f"{content}:{rule}", subject, rule, source, priority, MOST_ATTEMPTS, now, now),
            )
            number = inserted.lastrowid
            if inserted.rowcount == 0:
                number = self._reopened(connection, f"{content}:{rule}")
            if number is None:
                continue
            numbers.append(number)
            history.append(connection, now, number, "received", {"rule": rule, "content": content, **(audit or {})})
            if not rule:
                self.move(connection, number, "refused", refusal)
            for (older,) in _open_jobs(connection, subject, except_job=number):
                self.move(connection, older, "superseded", f"job {number} has a newer state of the series")
        return numbers

    def _reopened(self, connection: sqlite3.Connection, key: str) -> int | None:
        """Put a job that was withdrawn back, for its input is there again; None if it was not withdrawn."""
        found = connection.execute("SELECT id FROM jobs WHERE key = ? AND state = 'withdrawn'", (key,)).fetchone()
        if found is None:
            return None
        reset = "UPDATE jobs SET state = 'received', reason = '', attempts_left = ?, progress = 0 WHERE id = ?"
        connection.execute(reset, (MOST_ATTEMPTS, found[0]))
        return int(found[0])

    def withdraw(self, series: str, reason: str) -> list[int]:
        """Take back the jobs of a series that are not written yet; return their numbers."""
        with self.changing() as connection:
            rows = connection.execute(
                "SELECT id FROM jobs WHERE subject >= ? || ':' AND subject < ? || ';' "
                "AND state IN ('received', 'segmenting')",
                (series, series),
            )
            found = [number for (number,) in rows.fetchall()]
            for number in found:
                self.move(connection, number, "withdrawn", reason)
        return found

    def claim(self, lease_seconds: float, worker: str = "") -> Job | None:
        """Take the next job; None if there is none, or the queue is suspended.

        A job whose worker's lease ran out is taken again, :data:`MOST_ATTEMPTS` times.

        Args:
            lease_seconds: how long no sign of life means that the worker is dead; :meth:`renew` prolongs it.
            worker: name of the worker, for :meth:`expire`.
        """
        now = self.clock()
        with self.changing() as connection:
            if connection.execute("SELECT 1 FROM facts WHERE name = 'suspended'").fetchone():
                return None
            expired = "SELECT id FROM jobs WHERE state = 'segmenting' AND lease < ? AND attempts_left <= 0"
            for (number,) in connection.execute(expired, (now,)).fetchall():
                self.move(
                    connection,
                    number,
                    "failed",
                    f"its worker's process ended {MOST_ATTEMPTS} times without a result, most often for want of "
                    "memory; take a smaller size in the rule, then run it again",
                )
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE state = 'received' OR (state = 'segmenting' AND lease < ?) "  # noqa: S608
                "ORDER BY priority, id LIMIT 1",
                (now,),
            ).fetchone()
            if row is None:
                return None
            job = _job(row)
            connection.execute(
                "UPDATE jobs SET attempt = attempt + 1, attempts_left = attempts_left - 1, lease = ?, progress = 0, "
                "started = ?, worker = ? WHERE id = ?",
                (now + lease_seconds, now, worker, job.id),
            )
            self.move(connection, job.id, "segmenting", "", attempt=job.attempt + 1)
            return self._get(connection, job.id)

    def expire(self, worker: str) -> None:
        """End the lease of a worker whose process has ended: its job is taken again at once."""
        with self.changing() as connection:
            connection.execute("UPDATE jobs SET lease = 0 WHERE state = 'segmenting' AND worker = ?", (worker,))

    def renew(self, job: Job, lease_seconds: float, progress: float) -> bool:
        """Prolong a lease, with the progress so far; False if the job is not this worker's any more."""
        with self.changing() as connection:
            done = connection.execute(
                "UPDATE jobs SET lease = ?, progress = ? WHERE id = ? AND attempt = ? AND state = 'segmenting'",
                (self.clock() + lease_seconds, progress, job.id, job.attempt),
            )
            return done.rowcount == 1

    def note_pack(self, job: Job, pack: str, sha256: str) -> None:
        """Store which pack a job is segmented with.

        Raises:
            LeaseLostError: the job is not this worker's any more.
        """
        with self.changing() as connection:
            self.check_lease(connection, job)
            connection.execute("UPDATE jobs SET pack = ?, pack_sha256 = ? WHERE id = ?", (pack, sha256, job.id))
            history.append(connection, self.clock(), job.id, "pack", {"pack": pack, "pack_sha256": sha256})

    def end_attempt(self, job: Job, state: Literal["refused", "failed"], reason: str) -> None:
        """Close a job without a result.

        Raises:
            LeaseLostError: the job is not this worker's any more.
        """
        with self.changing() as connection:
            self.check_lease(connection, job)
            self.move(connection, job.id, state, reason)

    def give_back(self, job: Job, reason: str, *, counts: bool) -> None:
        """Put a job back that was begun; the next worker takes it.

        Args:
            job: as it was claimed.
            reason: what happened.
            counts: whether this was one of its attempts; not if the job is not to blame.

        Raises:
            LeaseLostError: the job is not this worker's any more.
        """
        with self.changing() as connection:
            self.check_lease(connection, job)
            left = connection.execute("SELECT attempts_left FROM jobs WHERE id = ?", (job.id,)).fetchone()[0]
            if counts and left <= 0:
                self.move(connection, job.id, "failed", reason)
                return
            connection.execute(
                "UPDATE jobs SET attempts_left = ?, progress = 0 WHERE id = ?", (left if counts else left + 1, job.id)
            )
            self.move(connection, job.id, "received", reason)

    def retry(self, number: int) -> Job:
        """Segment a job again, or deliver it again if only that failed, with what is set up now.

        Raises:
            NodeError: there is no such job, or it is at work.
        """
        with self.changing() as connection:
            job = self._get(connection, number)
            if job is None:
                raise NodeError(f"there is no job {number}; 'kdseg-node status' lists them")
            if job.state in OPEN_STATES and job.state != "waiting":
                raise NodeError(f"job {number} is {job.state}: it is at work already; wait for it to end")
            if job.state in ("superseded", "withdrawn"):
                raise NodeError(f"job {number} is {job.state} and is not run again: {job.reason}")
            only_delivery = job.state in ("failed", "waiting") and job.written is not None
            connection.execute(
                "UPDATE jobs SET attempts_left = ?, progress = 0, written = ? WHERE id = ?",
                (MOST_ATTEMPTS, job.written if only_delivery else None, number),
            )
            if only_delivery:
                connection.execute(
                    "UPDATE deliveries SET state = 'due', tries = 0, next_try = 0, first_try = NULL "
                    "WHERE job = ? AND state IN ('due', 'failed')",
                    (number,),
                )
            self.move(connection, number, "written" if only_delivery else "received", "run again")
            again = self._get(connection, number)
            assert again is not None  # noqa: S101 - for mypy
            return again

    def suspend(self, cause: Cause, reason: str) -> None:
        """Begin no more jobs until :meth:`resume`; the first reason stays."""
        suspension = Suspension(cause=cause, reason=reason, since=self.clock())
        with self.changing() as connection:
            if not connection.execute("SELECT 1 FROM facts WHERE name = 'suspended'").fetchone():
                self.set_fact("suspended", msgspec.json.encode(suspension).decode())
                history.append(connection, self.clock(), None, "suspended", {"cause": cause, "reason": reason})

    def resume(self) -> bool:
        """Begin jobs again; return whether the queue was suspended."""
        with self.changing() as connection:
            found = connection.execute("DELETE FROM facts WHERE name = 'suspended'").rowcount == 1
            if found:
                history.append(connection, self.clock(), None, "resumed", {})
            return found

    def suspension(self) -> Suspension | None:
        """Return why no job is begun; None if jobs are."""
        text = self.fact("suspended")
        return None if text is None else msgspec.json.decode(text, type=Suspension)

    def fact(self, name: str) -> str | None:
        """Return what was stored under a name, None if nothing was."""
        row = self.connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        """Store a text under a name, as the number of the last change of Orthanc that was looked at."""
        self.connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def get(self, number: int) -> Job | None:
        """Return a job, None if there is none with that number."""
        return self._get(self.connection, number)

    def jobs(self, states: Sequence[State] = STATES, limit: int = -1) -> list[Job]:
        """Return the jobs in some states, the newest first."""
        marks = ",".join("?" * len(states))
        rows = self.connection.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE state IN ({marks}) ORDER BY id DESC LIMIT ?",  # noqa: S608 - marks only
            (*states, limit),
        )
        return [_job(row) for row in rows]

    def open_jobs(self) -> list[Job]:
        """Return the jobs that may still change by themselves, the newest first."""
        return self.jobs(OPEN_STATES)

    def counts(self) -> dict[State, int]:
        """Return how many jobs are in each state, all states included."""
        found = dict(self.connection.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())
        return {state: found.get(state, 0) for state in STATES}

    def move(self, connection: sqlite3.Connection, number: int, state: State, reason: str = "", **detail: Any) -> None:
        """Change a job's state, and say so in the audit log, in a transaction that the caller holds."""
        now = self.clock()
        connection.execute(
            "UPDATE jobs SET state = ?, reason = ?, changed = ? WHERE id = ?", (state, reason, now, number)
        )
        history.append(connection, now, number, state, {**({"reason": reason} if reason else {}), **detail})

    def check_lease(self, connection: sqlite3.Connection, job: Job) -> None:
        """Check that a job is still its worker's.

        Raises:
            LeaseLostError: it is not.
        """
        found = self._get(connection, job.id)
        if found is None or found.attempt != job.attempt or found.state != "segmenting":
            raise LeaseLostError

    def _get(self, connection: sqlite3.Connection, number: int) -> Job | None:
        row = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (number,)).fetchone()  # noqa: S608
        return None if row is None else _job(row)


def _open_jobs(
    connection: sqlite3.Connection, subject: str, states: Sequence[State] = OPEN_STATES, except_job: int = 0
) -> list[tuple[int]]:
    marks = ",".join("?" * len(states))
    found = connection.execute(
        f"SELECT id FROM jobs WHERE subject = ? AND id != ? AND state IN ({marks})",  # noqa: S608 - marks only
        (subject, except_job, *states),
    )
    return found.fetchall()


def _job(row: tuple[Any, ...]) -> Job:
    return Job(**dict(zip(Job.__struct_fields__, row, strict=True)))

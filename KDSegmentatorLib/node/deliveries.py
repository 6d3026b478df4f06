"""Which result still has to go to which target: a row a job and target, in the queue's file.

A target that does not answer is asked again after a pause that grows, while the other targets go on. What is delivered
are the bytes in the job's folder: after a kill between a target's "stored" and our own note of it the same bytes go
once more, with the same UIDs, and the target has them once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from KDSegmentatorLib.node import history
from KDSegmentatorLib.node.job import Job
from KDSegmentatorLib.node.queue import Queue

DeliveryState = Literal["due", "delivered", "confirmed", "failed"]
DELIVERY_STATES: tuple[DeliveryState, ...] = get_args(DeliveryState)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    job INTEGER NOT NULL REFERENCES jobs (id),
    target TEXT NOT NULL,
    state TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    first_try REAL,
    next_try REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    commitment INTEGER NOT NULL DEFAULT 0,
    receipt TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (job, target)
);
CREATE INDEX IF NOT EXISTS deliveries_by_target ON deliveries (target, state, next_try);
"""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A result on its way to a target.

    Attributes:
        job: number of the job.
        target: its name.
        state: ``confirmed`` is a target's storage commitment.
        tries: how often it failed.
        first_try: when it was first tried, seconds since 1970; None before.
        next_try: not before this time.
        reason: why it failed the last time.
        commitment: whether the target shall commit to keep it.
        receipt: transaction of a storage commitment that was asked for; empty if none was.
    """

    job: int
    target: str
    state: DeliveryState
    tries: int
    first_try: float | None
    next_try: float
    reason: str
    commitment: bool
    receipt: str


_COLUMNS = ", ".join(Delivery.__struct_fields__)


class Deliveries:
    """The deliveries in a queue's file.

    Args:
        queue: whose jobs are delivered.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        queue.connection.executescript(_SCHEMA)

    def written(self, job: Job, targets: Sequence[str], outputs: Mapping[str, Mapping[str, str]]) -> None:
        """Note that a job's results are complete in its folder, and where they have to go.

        Args:
            job: as it was claimed.
            targets: names.
            outputs: what the audit log shall say of each file: hash and UIDs.

        Raises:
            LeaseLostError: the job is not this worker's any more.
        """
        queue = self._queue
        with queue.changing() as connection:
            queue.check_lease(connection, job)
            connection.execute("DELETE FROM deliveries WHERE job = ?", (job.id,))
            connection.executemany(
                "INSERT INTO deliveries (job, target, state) VALUES (?, ?, 'due')", [(job.id, name) for name in targets]
            )
            connection.execute("UPDATE jobs SET written = ?, progress = 1 WHERE id = ?", (queue.clock(), job.id))
            queue.move(connection, job.id, "written", outputs={name: dict(of) for name, of in outputs.items()})

    def due(self, target: str) -> Delivery | None:
        """Return what has to go to a target now, the oldest first; None if there is nothing."""
        row = self._queue.connection.execute(
            f"SELECT {_COLUMNS} FROM deliveries WHERE target = ? AND state = 'due' AND next_try <= ? "  # noqa: S608
            "AND job IN (SELECT id FROM jobs WHERE state IN ('written', 'delivering', 'waiting')) "
            "ORDER BY next_try, job LIMIT 1",
            (target, self._queue.clock()),
        ).fetchone()
        return None if row is None else _delivery(row)

    def unconfirmed(self, target: str) -> list[Delivery]:
        """Return what a target took, but has not committed to keep, and may be asked now."""
        rows = self._queue.connection.execute(
            f"SELECT {_COLUMNS} FROM deliveries WHERE target = ? AND state = 'delivered' "  # noqa: S608
            "AND commitment AND next_try <= ? AND job IN "
            "(SELECT id FROM jobs WHERE state IN ('delivering', 'waiting', 'delivered', 'failed')) ORDER BY job",
            (target, self._queue.clock()),
        )
        return [_delivery(row) for row in rows]

    def begin(self, delivery: Delivery) -> bool:
        """Note that a delivery is tried; False if the job was superseded or is delivered by now."""
        queue = self._queue
        with queue.changing() as connection:
            job = queue.get(delivery.job)
            if job is None or job.state not in ("written", "delivering", "waiting"):
                return False
            connection.execute(
                "UPDATE deliveries SET first_try = COALESCE(first_try, ?) WHERE job = ? AND target = ?",
                (queue.clock(), delivery.job, delivery.target),
            )
            if job.state != "delivering":
                queue.move(connection, job.id, "delivering", target=delivery.target)
        return True

    def succeed(self, delivery: Delivery, *, commitment: bool, stored: Sequence[str]) -> None:
        """Note that a target took the result.

        Args:
            delivery: which.
            commitment: whether the target shall also commit to keep it (:meth:`confirm`).
            stored: UIDs of the instances, or nothing for files.
        """
        self._note(delivery, "delivered", "delivered to", {"instances": list(stored)}, commitment=commitment)

    def postpone(self, delivery: Delivery, reason: str, seconds: float) -> None:
        """Note that a target did not take the result, and when it is tried again.

        Args:
            delivery: which.
            reason: what the target said.
            seconds: until the next try.
        """
        queue = self._queue
        with queue.changing() as connection:
            connection.execute(
                "UPDATE deliveries SET tries = tries + 1, next_try = ?, reason = ? WHERE job = ? AND target = ?",
                (queue.clock() + seconds, reason, delivery.job, delivery.target),
            )
            detail = {"target": delivery.target, "reason": reason, "again_in_seconds": seconds}
            history.append(connection, queue.clock(), delivery.job, "not delivered", detail)
            self._settle(connection, delivery.job)

    def fail(self, delivery: Delivery, reason: str) -> None:
        """Give a delivery up; the job can be run again by hand."""
        self._note(delivery, "failed", "given up", {"reason": reason}, reason=reason)

    def ask_later(self, delivery: Delivery, seconds: float, receipt: str) -> None:
        """Note when a target is asked again whether it committed to keep the result.

        Args:
            delivery: which.
            seconds: until then.
            receipt: the transaction to ask for; empty to ask for a new one.
        """
        with self._queue.changing() as connection:
            connection.execute(
                "UPDATE deliveries SET next_try = ?, receipt = ? WHERE job = ? AND target = ?",
                (self._queue.clock() + seconds, receipt, delivery.job, delivery.target),
            )

    def confirm(self, delivery: Delivery) -> None:
        """Note that a target committed to keep the result."""
        self._note(delivery, "confirmed", "committed", {}, commitment=True)

    def send_again(self, delivery: Delivery, reason: str, seconds: float) -> None:
        """Note that a target does not have what it took (a commitment that failed): it is delivered again.

        Args:
            delivery: which.
            reason: what is missing.
            seconds: until then.
        """
        queue = self._queue
        with queue.changing() as connection:
            connection.execute(
                "UPDATE deliveries SET state = 'due', receipt = '' WHERE job = ? AND target = ?",
                (delivery.job, delivery.target),
            )
        self.postpone(delivery, reason, seconds)

    def of_job(self, number: int) -> list[Delivery]:
        """Return the deliveries of a job, by target."""
        rows = self._queue.connection.execute(
            f"SELECT {_COLUMNS} FROM deliveries WHERE job = ? ORDER BY target",  # noqa: S608
            (number,),
        )
        return [_delivery(row) for row in rows]

    def counts(self) -> dict[tuple[str, DeliveryState], int]:
        """Return how many deliveries of each target are in each state."""
        rows = self._queue.connection.execute("SELECT target, state, COUNT(*) FROM deliveries GROUP BY target, state")
        return {(target, state): count for target, state, count in rows}

    def _note(
        self,
        delivery: Delivery,
        state: DeliveryState,
        event: str,
        detail: dict[str, Any],
        *,
        reason: str = "",
        commitment: bool = False,
    ) -> None:
        queue = self._queue
        with queue.changing() as connection:
            connection.execute(
                "UPDATE deliveries SET state = ?, reason = ?, next_try = 0, commitment = ? "
                "WHERE job = ? AND target = ?",
                (state, reason, commitment, delivery.job, delivery.target),
            )
            history.append(connection, queue.clock(), delivery.job, event, {"target": delivery.target, **detail})
            self._settle(connection, delivery.job)

    def _settle(self, connection: sqlite3.Connection, number: int) -> None:
        """Give a job the state that its deliveries add up to; one that was superseded meanwhile keeps its own."""
        job = self._queue.get(number)
        if job is None or job.state in ("superseded", "withdrawn", "received", "segmenting"):
            return
        deliveries = self.of_job(number)
        states = {each.state for each in deliveries}
        reason = "; ".join(f"{each.target}: {each.reason}" for each in deliveries if each.reason)
        asked = [each for each in deliveries if each.commitment]
        if "due" in states:
            waits = all(each.tries for each in deliveries if each.state == "due")
            new: Any = "waiting" if waits else "delivering"
        elif "failed" in states:
            new = "failed"
        elif asked and all(each.state == "confirmed" for each in asked):
            new = "confirmed"
        else:
            new = "delivered"
        if (new, reason) != (job.state, job.reason):
            self._queue.move(connection, number, new, reason)


def _delivery(row: tuple[Any, ...]) -> Delivery:
    return msgspec.convert(dict(zip(Delivery.__struct_fields__, row, strict=True)), Delivery, strict=False)

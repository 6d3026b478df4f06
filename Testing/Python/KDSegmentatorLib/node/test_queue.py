"""Each scan is one job, which is done once, whoever is killed in between."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import NodeError
from KDSegmentatorLib.node import history
from KDSegmentatorLib.node.deliveries import Deliveries
from KDSegmentatorLib.node.job import Job
from KDSegmentatorLib.node.queue import MOST_ATTEMPTS, LeaseLostError, Queue

NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Queue:
    return Queue(tmp_path / "queue.sqlite", clock=clock)


def add(queue: Queue, content: str = "a", series: str = "series", priority: int = 0, **more) -> int | None:
    numbers = queue.admit(content=content, series=series, source="{}", rules={"brain": priority}, **more)
    return numbers[0] if numbers else None


def claim(queue: Queue) -> Job:
    job = queue.claim(30)
    assert job is not None
    return job


def state(queue: Queue, number: int) -> tuple[str, str]:
    job = queue.get(number)
    assert job is not None
    return job.state, job.reason


def events(queue: Queue, number: int | None = None) -> list[str]:
    return [entry["event"] for entry in history.entries(queue.connection, number)]


def test_the_same_scan_under_the_same_rule_is_one_job(queue: Queue) -> None:
    assert add(queue) == 1
    assert add(queue) is None
    assert len(queue.jobs()) == 1


def test_a_scan_that_two_rules_fit_is_two_jobs_and_one_that_none_fits_says_so(queue: Queue) -> None:
    assert queue.admit(content="a", series="1", source="{}", rules={"brain": 0, "hippocampus": 1}) == [1, 2]
    assert queue.admit(content="b", series="2", source="{}", rules={}, refusal="no rule fits") == [3]
    assert queue.admit(content="b", series="2", source="{}", rules={"brain": 0}) == []
    assert state(queue, 3) == ("refused", "no rule fits")
    assert [claim(queue).rule for _ in range(2)] == ["brain", "hippocampus"]


def test_jobs_are_taken_by_priority_then_by_age(queue: Queue) -> None:
    for number, priority in enumerate((1, 0, 1, 0)):
        add(queue, f"key {number}", f"series {number}", priority=priority)
    assert [claim(queue).id for _ in range(4)] == [2, 4, 1, 3]
    assert queue.claim(30) is None


def test_a_job_whose_worker_died_is_taken_again_and_the_dead_one_cannot_change_it(queue: Queue, clock: Clock) -> None:
    add(queue)
    first = claim(queue)
    assert queue.claim(30) is None  # its lease runs
    clock.now += 31
    second = claim(queue)
    assert (second.id, second.attempt) == (first.id, first.attempt + 1)
    assert not queue.renew(first, 30, 0.5)
    with pytest.raises(LeaseLostError):
        queue.end_attempt(first, "refused", "late")
    assert queue.renew(second, 30, 0.5)
    assert state(queue, 1)[0] == "segmenting"


def test_a_job_that_ends_its_worker_each_time_fails_and_the_next_goes_on(queue: Queue, clock: Clock) -> None:
    add(queue)
    add(queue, "b", "other")
    for _ in range(MOST_ATTEMPTS):
        assert claim(queue).id == 1
        clock.now += 31
    assert claim(queue).id == 2
    assert state(queue, 1)[0] == "failed"
    assert "smaller size" in state(queue, 1)[1]


def test_a_newer_state_of_a_series_supersedes_what_is_not_delivered(queue: Queue) -> None:
    add(queue, "10 slices")
    job = claim(queue)
    assert add(queue, "20 slices") == 2
    assert state(queue, 1) == ("superseded", "job 2 has a newer state of the series")
    with pytest.raises(LeaseLostError):
        Deliveries(queue).written(job, ["pacs"], {})
    assert claim(queue).id == 2


def test_a_deleted_input_withdraws_its_job_until_it_is_there_again(queue: Queue) -> None:
    add(queue)
    assert queue.withdraw("series", "its series was deleted") == [1]
    assert queue.claim(30) is None
    assert add(queue) == 1  # it is there again
    assert claim(queue).id == 1


def test_a_suspended_queue_gives_no_job_until_it_is_resumed(queue: Queue) -> None:
    add(queue)
    job = claim(queue)
    queue.suspend("disk", "the disk is full")
    queue.suspend("pack", "later")
    queue.give_back(job, "the disk is full", counts=False)
    assert queue.claim(30) is None
    suspension = queue.suspension()
    assert suspension is not None
    assert (suspension.cause, suspension.reason) == ("disk", "the disk is full")
    assert queue.resume()
    for _ in range(MOST_ATTEMPTS):  # the suspension was none of its attempts
        queue.give_back(claim(queue), "again", counts=True)
    assert state(queue, 1)[0] == "failed"


def test_a_refused_job_can_be_run_again_and_one_at_work_cannot(queue: Queue) -> None:
    add(queue)
    with pytest.raises(NodeError, match="at work already"):
        queue.retry(1)
    queue.end_attempt(claim(queue), "refused", "a slice is missing")
    assert queue.retry(1).state == "received"
    with pytest.raises(NodeError, match="no job 7"):
        queue.retry(7)


def test_every_change_is_a_row_and_none_can_be_altered(queue: Queue) -> None:
    add(queue, audit={"series_uid": "1.2.3"})
    job = claim(queue)
    queue.note_pack(job, "brain-x1_4 1.0.0", "ab" * 32)
    queue.end_attempt(job, "refused", "a slice is missing")
    assert events(queue, 1) == ["received", "segmenting", "pack", "refused"]
    first = next(history.entries(queue.connection))
    assert first["series_uid"] == "1.2.3"
    for statement in ("UPDATE changes SET detail = '{}'", "DELETE FROM changes"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            queue.connection.execute(statement)


@pytest.mark.parametrize(
    "statement", ["UPDATE changes SET time = time + 1 WHERE id = 2", "DELETE FROM changes WHERE id = 2"]
)
def test_an_audit_log_that_was_altered_all_the_same_says_where(queue: Queue, statement: str) -> None:
    for key in "abc":
        add(queue, key, key)
    list(history.entries(queue.connection))
    queue.connection.executescript("DROP TRIGGER changes_stay; DROP TRIGGER changes_remain;" + statement)
    with pytest.raises(NodeError, match="altered at entry 2"):
        list(history.entries(queue.connection))


def test_a_file_that_is_no_queue_is_named(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(NodeError, match=r"queue\.sqlite cannot be opened"):
        Queue(path)


def _work(path: Path, seen: multiprocessing.Queue) -> None:
    queue = Queue(path)
    while (job := queue.claim(30)) is not None:
        Deliveries(queue).written(job, [], {})
        seen.put(job.id)
    queue.close()


def test_processes_share_a_queue_and_none_gets_the_job_of_another(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    queue = Queue(path)
    Deliveries(queue)
    for number in range(60):
        add(queue, str(number), str(number))
    context = multiprocessing.get_context("spawn")
    seen: multiprocessing.Queue = context.Queue()
    processes = [context.Process(target=_work, args=(path, seen)) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(seen.get(timeout=60) for _ in range(60))
    for process in processes:
        process.join(60)
    assert found == list(range(1, 61))
    list(history.entries(queue.connection))  # one chain, whoever wrote it


class TestDeliveries:
    @pytest.fixture
    def deliveries(self, queue: Queue) -> Deliveries:
        return Deliveries(queue)

    @pytest.fixture
    def written(self, queue: Queue, deliveries: Deliveries) -> int:
        add(queue)
        deliveries.written(claim(queue), ["archive", "pacs"], {"seg.dcm": {"sha256": "0" * 64}})
        return 1

    def due(self, deliveries: Deliveries, target: str):
        found = deliveries.due(target)
        assert found is not None
        return found

    def test_a_target_that_does_not_answer_waits_and_the_other_goes_on(
        self, queue: Queue, deliveries: Deliveries, written: int, clock: Clock
    ) -> None:
        pacs = self.due(deliveries, "pacs")
        assert deliveries.begin(pacs)
        deliveries.postpone(pacs, "no answer", 60)
        assert deliveries.due("pacs") is None
        assert state(queue, written)[0] == "delivering"  # the archive has not been tried
        archive = self.due(deliveries, "archive")
        deliveries.succeed(archive, commitment=False, stored=["1.2"])
        assert state(queue, written) == ("waiting", "pacs: no answer")
        clock.now += 60
        pacs = self.due(deliveries, "pacs")
        assert pacs.tries == 1
        deliveries.succeed(pacs, commitment=False, stored=["1.2"])
        assert state(queue, written) == ("delivered", "")

    def test_a_job_is_confirmed_when_all_that_commit_have_committed(
        self, queue: Queue, deliveries: Deliveries, written: int
    ) -> None:
        deliveries.succeed(self.due(deliveries, "archive"), commitment=False, stored=[])
        deliveries.succeed(self.due(deliveries, "pacs"), commitment=True, stored=[])
        assert state(queue, written)[0] == "delivered"
        assert deliveries.unconfirmed("archive") == []
        (asked,) = deliveries.unconfirmed("pacs")
        deliveries.confirm(asked)
        assert state(queue, written)[0] == "confirmed"

    def test_what_a_target_lost_is_delivered_again(
        self, queue: Queue, deliveries: Deliveries, written: int, clock: Clock
    ) -> None:
        deliveries.succeed(self.due(deliveries, "archive"), commitment=False, stored=[])
        deliveries.succeed(self.due(deliveries, "pacs"), commitment=True, stored=[])
        deliveries.send_again(deliveries.unconfirmed("pacs")[0], "1.2 is missing", 60)
        assert state(queue, written) == ("waiting", "pacs: 1.2 is missing")
        clock.now += 60
        assert self.due(deliveries, "pacs").tries == 1

    def test_a_delivery_given_up_is_tried_again_without_segmenting(
        self, queue: Queue, deliveries: Deliveries, written: int
    ) -> None:
        deliveries.succeed(self.due(deliveries, "archive"), commitment=False, stored=[])
        deliveries.fail(self.due(deliveries, "pacs"), "refused the association for 3 days")
        assert state(queue, written)[0] == "failed"
        assert queue.retry(written).state == "written"
        assert queue.claim(30) is None
        assert self.due(deliveries, "pacs").tries == 0
        assert deliveries.due("archive") is None

    def test_a_superseded_job_is_delivered_no_more(self, queue: Queue, deliveries: Deliveries, written: int) -> None:
        begun = self.due(deliveries, "pacs")
        add(queue, "with late slices")
        assert not deliveries.begin(begun)
        assert deliveries.due("archive") is None
        deliveries.succeed(begun, commitment=False, stored=[])  # it was on its way
        assert state(queue, written)[0] == "superseded"

"""The Batch box without Qt: real files, an injected job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.errors import JobError
from KDSegmentatorLib.jobs.messages import BatchFile, BatchFinished, Failed, Log, Progressed, Request, RunChanged
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorPanel.batch_panel import SETTLE_SECONDS, BatchInputs, BatchPanel
from support.job_processes import changed
from support.panel_doubles import AtOnce, Clock, FakeChoices, FakeStartBatch

SETTINGS = Request(task="hippocampus", user_packs="/user", shipped_packs="/shipped", options=RunOptions(size="x1/4"))
NAMES = ("a.nii.gz", "b.nrrd", "sub é/c.mha")


@dataclass
class Box:
    """The panel and what is around it."""

    panel: BatchPanel
    start: FakeStartBatch
    choices: FakeChoices
    background: AtOnce
    clock: Clock
    inputs: BatchInputs

    def choose(self, **inputs: Any) -> None:
        self.inputs = replace(self.inputs, **inputs)
        self.panel.update(self.inputs)
        self.clock.now += SETTLE_SECONDS
        self.panel.poll()

    def end(self, *events: Any) -> None:
        self.start.jobs[-1].events += events
        assert self.panel.poll()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """Return a box with a folder of files, ready to start."""
    for name in NAMES:
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "results").mkdir()
    start = FakeStartBatch()
    choices, background, clock = FakeChoices(settings=SETTINGS), AtOnce(), Clock()
    panel = BatchPanel(start, choices, background, clock)
    result = Box(panel, start, choices, background, clock, BatchInputs())
    result.choose(
        pattern="**/*",
        input_folder=str(tmp_path / "scans"),
        output_folder=str(tmp_path / "results"),
    )
    return result


def test_ready(box: Box) -> None:
    view = box.panel.view()
    assert view.enabled
    assert view.reason == "Segment 3 files."
    assert [row.name for row in view.rows] == list(NAMES)
    assert {row.state for row in view.rows} == {"waiting"}
    assert "x1/4" in view.what


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"input_folder": ""}, "Choose the folder with the volumes."),
        ({"input_folder": "/no/where"}, "/no/where"),
        ({"output_folder": ""}, "Choose the folder for the results."),
        ({"pattern": "*.dcm"}, "has no volumes"),
    ],
)
def test_the_reason_why_it_cannot_start_is_the_tooltip(box: Box, inputs: dict[str, str], reason: str) -> None:
    box.choose(**inputs)
    view = box.panel.view()
    assert not view.enabled
    assert reason in view.reason
    box.panel.start()
    assert not box.start.jobs


def test_the_segment_box_is_asked_when_it_matters(box: Box) -> None:
    """Packages are installed, and assessments come, without the user choosing anything in the Batch box."""
    box.choices.obstacle = "Install the missing packages first: onnxruntime."
    assert box.panel.view().reason == box.choices.obstacle
    box.panel.start()
    assert not box.start.jobs
    box.choices.obstacle = ""
    box.choices.settings = changed(SETTINGS, task="spleen")
    assert box.panel.view().enabled
    assert "spleen" in box.panel.view().what
    box.panel.start()
    assert box.start.requests[0].task == "spleen"


def test_a_run_of_the_segment_box_is_waited_for(box: Box) -> None:
    box.panel.block("Wait until the run has ended.")
    assert (box.panel.view().enabled, box.panel.view().reason) == (False, "Wait until the run has ended.")
    box.panel.start()
    assert not box.panel.running
    box.panel.block("")
    box.panel.start()
    assert box.panel.running


def test_what_files_have_to_say_is_seen_failures_first(box: Box) -> None:
    box.panel.start()
    box.end(
        RunChanged(run=0, runs=3, name=NAMES[0], state="done", message="the liver is small"),
        RunChanged(run=1, runs=3, name=NAMES[1], state="failed", message="the file is damaged"),
        RunChanged(run=2, runs=3, name=NAMES[2], state="running"),
    )
    assert box.panel.view().details == ("b.nrrd: The file is damaged", "a.nii.gz: The liver is small")
    box.end(*(RunChanged(run=2, runs=9, name=f"{n}.nrrd", state="failed", message="damaged") for n in range(7)))
    assert len(box.panel.view().details) == 7
    assert box.panel.view().details[-1].startswith("and 3 more")


def test_files_are_looked_for_when_typing_has_ended(box: Box) -> None:
    before = box.background.submitted
    for pattern in ("*", "*.", "*.n", "*.nr", "*.nrrd"):
        box.inputs = replace(box.inputs, pattern=pattern)
        box.panel.update(box.inputs)
        box.clock.now += 0.5 * SETTLE_SECONDS
        box.panel.poll()
    assert box.background.submitted == before
    assert box.panel.busy
    assert "Looking for volumes" in box.panel.view().reason
    box.clock.now += SETTLE_SECONDS
    assert box.panel.poll()
    assert box.background.submitted == before + 1
    assert [row.name for row in box.panel.view().rows] == ["b.nrrd"]
    assert not box.panel.busy


def test_anything_that_goes_wrong_is_said(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("the share is gone")

    monkeypatch.setattr("KDSegmentatorPanel.batch_panel.find_scans", fail)
    box.choose(pattern="*.nrrd")
    assert "the share is gone" in box.panel.view().reason
    assert "the share is gone" in caplog.text


def test_no_memory_to_start_is_said(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_request: object) -> None:
        raise MemoryError

    monkeypatch.setattr(box.panel, "_start", fail)
    box.panel.start()
    assert "not enough memory" in box.panel.view().message.text
    assert not box.panel.busy


def test_files_that_came_later_are_found_at_the_start(box: Box) -> None:
    (Path(box.inputs.input_folder) / "new.nii").touch()
    box.panel.start()
    assert box.start.requests[0].inputs == ("a.nii.gz", "b.nrrd", "new.nii", "sub é/c.mha")


def test_from_start_to_end(box: Box) -> None:
    box.panel.start()
    request = box.start.requests[0]
    assert (request.task, request.user_packs, request.options.size, request.resume) == (
        "hippocampus",
        "/user",
        "x1/4",
        True,
    )
    assert request.input_folder == box.inputs.input_folder
    assert box.panel.busy
    box.end(
        RunChanged(run=0, runs=3, name="a.nii.gz", state="done"),
        RunChanged(run=1, runs=3, name="b.nrrd", state="failed", message="b.nrrd is damaged"),
        RunChanged(run=2, runs=3, name="sub é/c.mha", state="running"),
        Progressed(run=2, runs=3, stage="windows", done=1, total=4, seconds_left=2.0),
        Log(level="info", message="reading"),
    )
    view = box.panel.view()
    assert [row.state for row in view.rows] == ["done", "failed", "at work"]
    assert view.rows[1].message == "b.nrrd is damaged"
    assert view.current == 2
    assert (view.progress.done, view.progress.total) == (2, 3)
    assert view.progress.text == "file 3 of 3 · window 1 of 4 · 2 s left"
    assert "reading" in box.panel.log
    files = tuple(
        BatchFile(input=name, state=state, message=message, labels=None, entropy=None)
        for name, state, message in zip(NAMES, ("done", "failed", "skipped"), ("", "damaged", ""), strict=True)
    )
    box.end(BatchFinished(files=files, table="/results/statistics.csv"))
    view = box.panel.view()
    assert not view.running
    assert not box.panel.busy
    assert view.table == "/results/statistics.csv"
    assert view.message.level == "warning"
    assert view.message.text.startswith("1 done, 1 done before, 1 failed.")
    assert [row.state for row in view.rows] == ["done", "failed", "done before"]


def test_files_with_warnings_say_so(box: Box) -> None:
    box.panel.start()
    box.end(RunChanged(run=0, runs=3, name="a.nii.gz", state="done", message="Liver is small."))
    row = box.panel.view().rows[0]
    assert (row.state, row.message) == ("done, with warnings", "Liver is small.")
    files = tuple(
        BatchFile(input=name, state=state, message=message, labels=None, entropy=None)
        for name, state, message in zip(NAMES, ("done", "done", "skipped"), ("Odd.", "", "Odd."), strict=True)
    )
    box.end(BatchFinished(files=files, table="/results/statistics.csv"))
    view = box.panel.view()
    assert [row.state for row in view.rows] == ["done, with warnings", "done", "done before, with warnings"]
    assert view.message.level == "warning"
    assert view.message.text.startswith("2 done, 1 done before, 0 failed.")
    assert view.message.text.endswith("2 with warnings: look at these results before you use them.")


def test_one_batch_at_a_time(box: Box) -> None:
    box.panel.start()
    box.panel.start()
    assert len(box.start.jobs) == 1


def test_what_is_chosen_during_a_batch_does_not_change_it(box: Box, tmp_path: Path) -> None:
    box.panel.start()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "z.nii").touch()
    box.choose(input_folder=str(tmp_path / "others"))
    assert [row.name for row in box.panel.view().rows] == list(NAMES)


def test_cancel_keeps_what_is_finished(box: Box) -> None:
    box.panel.start()
    box.end(
        RunChanged(run=0, runs=3, name="a.nii.gz", state="done"),
        RunChanged(run=1, runs=3, name="b.nrrd", state="running"),
    )
    box.panel.cancel()
    box.panel.cancel()
    assert box.start.jobs[0].cancelled == 1
    assert not box.panel.view().enabled
    box.start.jobs[0].end_cancelled()
    assert box.panel.poll()
    view = box.panel.view()
    assert view.enabled
    assert "start again to go on" in view.message.text
    assert [row.state for row in view.rows] == ["done", "waiting", "waiting"]


def test_a_failure_is_said(box: Box) -> None:
    box.panel.start()
    box.end(Failed(error=JobError("the disk is full; free some space"), log=()))
    view = box.panel.view()
    assert (view.message.level, view.message.text) == ("error", "The disk is full; free some space")
    assert view.enabled


def test_the_application_is_closed(box: Box) -> None:
    box.panel.start()
    box.panel.shut_down()
    job = box.start.jobs[0]
    assert (job.cancelled, job.waited) == (1, 1)
    assert not box.panel.busy

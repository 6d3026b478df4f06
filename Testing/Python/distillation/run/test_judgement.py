from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="install the extra 'distill'")

from distillation.launch import Progress
from distillation.run.judgement import judge, judge_together, keeps_records
from distillation.run.record import Records, StepRecord
from distillation.run.steps import Step
from KDSegmentatorLib.errors import TrainingError

INPUTS = {"dataset": "1"}


def step(tmp_path: Path, found: Progress = "new") -> Step:
    output = tmp_path / "output"
    return Step(
        stage="students",
        name="student x1/4 plain",
        inputs=lambda: INPUTS,
        outputs=lambda: [output],
        work=output.touch,
        found=lambda: found,
    )


def write(tmp_path: Path, *, finished: bool, inputs: dict[str, str]) -> Records:
    records = Records(tmp_path / "run")
    (tmp_path / "output").touch()
    outputs = (str(tmp_path / "output"),) if finished else ()
    records.write(StepRecord(step="student x1/4 plain", finished=finished, inputs=inputs, outputs=outputs))
    return records


@pytest.mark.parametrize("found", ["new", "started", "done"])
def test_without_a_record_what_is_there_decides(tmp_path: Path, found: Progress) -> None:
    judged = judge(step(tmp_path, found), Records(tmp_path / "run"))
    assert (judged.status.state, judged.inputs) == (found, INPUTS)


def test_a_training_that_ended_before_its_record_was_written_is_done(tmp_path: Path) -> None:
    records = write(tmp_path, finished=False, inputs=INPUTS)
    assert judge(step(tmp_path, "started"), records).status.state == "started"
    assert judge(step(tmp_path, "done"), records).status.state == "done"


def test_other_inputs_are_a_change_whatever_is_there(tmp_path: Path) -> None:
    for finished in (True, False):
        records = write(tmp_path, finished=finished, inputs={"dataset": "2"})
        assert judge(step(tmp_path, "done"), records).status.changes == ("dataset",)


def test_a_missing_output_is_named(tmp_path: Path) -> None:
    records = write(tmp_path, finished=True, inputs=INPUTS)
    assert judge(step(tmp_path), records).status.state == "done"
    (tmp_path / "output").unlink()
    assert judge(step(tmp_path, "started"), records).status.missing == (str(tmp_path / "output"),)
    records.forget("student x1/4 plain")
    records.forget("student x1/4 plain")  # nothing to forget
    assert judge(step(tmp_path), records).status.state == "new"


def test_an_unreadable_input_is_named(tmp_path: Path) -> None:
    def unreadable() -> dict[str, str]:
        raise PermissionError(13, "no permission", "image.nii.gz")

    broken = Step(stage="prepare", name="prepare", inputs=unreadable, outputs=list, work=lambda: None)
    with pytest.raises(TrainingError, match=r"prepare: .*image\.nii\.gz.*start again"):
        judge(broken, Records(tmp_path))


def test_a_process_alone_judges_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert keeps_records()
    assert judge_together(step(tmp_path, "done"), Records(tmp_path), device="cpu").status.state == "done"
    monkeypatch.setenv("RANK", "1")
    assert not keeps_records()

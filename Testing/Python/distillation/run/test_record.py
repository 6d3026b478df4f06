from __future__ import annotations

from pathlib import Path

import pytest

from distillation.run.record import Records, StepRecord

INPUTS = {"dataset": "1", "recipe": "2"}


def record(tmp_path: Path, **fields: object) -> StepRecord:
    output = tmp_path / "output"
    output.touch()
    usual = {"step": "student x1/4 logit", "finished": True, "inputs": INPUTS, "outputs": (str(output),)}
    return StepRecord(**{**usual, **fields})  # type: ignore[arg-type]


def test_a_record_is_kept(tmp_path: Path) -> None:
    records = Records(tmp_path / "run")
    written = record(tmp_path, seconds=1.5, peak_bytes=10, machine={"python": "3"})
    records.write(written)
    assert records.read(written.step) == written
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["student-x1-4-logit.json"]


def test_where_a_step_stands(tmp_path: Path) -> None:
    records = Records(tmp_path / "run")
    step = "student x1/4 logit"
    assert records.status(step, INPUTS).state == "new"
    records.write(record(tmp_path, finished=False))
    assert records.status(step, INPUTS).state == "started"
    records.write(record(tmp_path))
    assert records.status(step, INPUTS).state == "done"
    status = records.status(step, {"dataset": "9", "more": "3"})
    assert (status.state, status.changes) == ("changed", ("dataset", "more", "recipe"))
    (tmp_path / "output").unlink()
    status = records.status(step, INPUTS)
    assert (status.state, status.missing) == ("started", (str(tmp_path / "output"),))


def test_a_workspace_may_be_moved(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    Records(here / "run").write(record(here))
    assert str(here) not in (here / "run" / "student-x1-4-logit.json").read_text()
    here.rename(there)
    assert Records(there / "run").status("student x1/4 logit", INPUTS).state == "done"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"step": 1, "inputs": 3}'])
def test_a_damaged_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "evaluate.json").write_text(text)
    assert Records(tmp_path).read("evaluate") is None

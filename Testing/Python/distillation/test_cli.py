import os

import pytest

pytest.importorskip("yaml", reason="install the extra 'distill'")

from distillation import cli
from distillation.cli import _set_workers, main
from KDSegmentatorLib.errors import TeacherError


@pytest.mark.parametrize("stage", ["prepare", "train-teacher", "distil", "evaluate", "export", "report", "run"])
def test_every_stage_has_help(stage, capsys):
    with pytest.raises(SystemExit) as stop:
        main([stage, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--workspace" in text
    assert "hippocampus" in text


def test_synthesize_has_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["synthesize", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--label-maps", "--raw", "--count", "brain_extraction"):
        assert option in text


def failure(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("kdseg-distill: error: ")
    assert text.count("\n") == 1
    return text


def test_errors_are_one_line(capsys, tmp_path, recipe_text, spheres):
    pytest.importorskip("nnunetv2", reason="install the extra 'distill'")
    assert "no recipe 'nothing'" in failure(capsys, "prepare", "nothing", "--workspace", tmp_path)
    path = tmp_path / "spheres.yaml"
    path.write_text(recipe_text.replace("fold: 0", "fodl: 0"))
    assert "dataset.fodl: unknown field" in failure(capsys, "prepare", path, "--workspace", tmp_path)
    path.write_text(recipe_text)
    common = [path, "--workspace", tmp_path / "work"]
    assert "--raw" in failure(capsys, "prepare", *common)
    raw = ["--raw", spheres.parent]
    assert "prepare' first" in failure(capsys, "train-teacher", *common, *raw)
    assert "not the teacher's folder" in failure(capsys, "distil", *common, *raw, "--teacher", tmp_path)
    assert "x1/8" in failure(capsys, "distil", *common, *raw, "--student", "x1/8")
    (spheres / "labelsTr" / "case_00.nii.gz").unlink()
    assert "case_00" in failure(capsys, "prepare", *common, *raw)


def test_torchs_words_are_one_line_too(capsys, tmp_path, recipe_text, monkeypatch):
    def failing(*_):
        raise TeacherError("cannot be loaded:\n\tsize mismatch")

    monkeypatch.setitem(cli._STAGES, "prepare", failing)
    (tmp_path / "spheres.yaml").write_text(recipe_text)
    text = failure(capsys, "prepare", tmp_path / "spheres.yaml", "--workspace", tmp_path)
    assert text == "kdseg-distill: error: cannot be loaded: size mismatch\n"


def test_ctrl_c_is_no_error_even_where_torch_fails_over_it(capsys, tmp_path, recipe_text, monkeypatch):
    def interrupted(*_):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("trying to pop from empty mode stack")

    def broken(*_):
        raise RuntimeError("a mistake of ours")

    (tmp_path / "spheres.yaml").write_text(recipe_text)
    command = ["prepare", str(tmp_path / "spheres.yaml"), "--workspace", str(tmp_path)]
    monkeypatch.setitem(cli._STAGES, "prepare", interrupted)
    assert main(command) == 130
    assert "start again to go on" in capsys.readouterr().err
    monkeypatch.setitem(cli._STAGES, "prepare", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(command)


def test_augmentation_stays_in_the_process_on_small_machines(monkeypatch):
    variable = "nnUNet_n_proc_DA"
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    _set_workers()
    assert os.environ[variable] == "0"
    monkeypatch.setenv(variable, "3")  # the user's own choice stays
    _set_workers()
    assert os.environ[variable] == "3"

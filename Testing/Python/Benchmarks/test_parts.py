"""Every part on tiny networks and scans, in processes of their own, up to the page."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.cache import open_cache
from kdbench.parts.registry import PARTS
from kdbench.results import Outcome, Run, read_results
from kdbench.runner import ROOT, Subject
from kdbench.setting import Setting

for package in ("torch", "nnunetv2", "nncf", "nilearn"):
    pytest.importorskip(package, reason="install the extras 'distill' and 'demo'")

import bench  # noqa: E402


def failures(outcomes: dict[str, Outcome]) -> list[str]:
    """Return what failed; what this machine cannot do is no failure."""
    return [outcome.problem for outcome in outcomes.values() if outcome.problem and "failed" in outcome.problem]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs") / bench.RESULTS


def test_every_part_is_tested_here() -> None:
    assert set(PARTS) == {"paper", *_OURS}


_OURS = ["shipped", "volumes", "classes", "arithmetic", "brain", "start", "advisor", "surface", "loss"]


@pytest.mark.parametrize("part", _OURS)
def test_part(part: str, setting: Setting, file: Path) -> None:
    bench.measure(part, setting, file)
    outcomes = read_results(file).parts[part].outcomes
    assert failures(outcomes) == []
    measured = [outcome for outcome in outcomes.values() if outcome.runs]
    assert measured
    assert all(outcome.wall_seconds for outcome in measured)


def test_stock_nnunet_and_ours_give_the_same_labels(setting: Setting, file: Path) -> None:
    bench.measure("paper", setting, file)
    part = read_results(file).parts["paper"]
    assert failures(part.outcomes) == []
    stock = part.first(software="nnU-Net")
    assert stock is not None
    assert len(stock.runs) == 1
    exact = [outcome.detail("equal") for outcome in part.found(software="comparison", precision="float32")]
    assert len(exact) == 2  # OpenVINO and onnxruntime
    assert all(share is not None and share > 0.95 for share in exact)


def test_the_page_shows_what_was_measured(file: Path) -> None:
    """Comes last: the parts above left their results."""
    results = read_results(file)
    bench.write_report(results, file.parent)
    page = (file.parent / bench.PAGE).read_text(encoding="utf-8")
    for title in ("Targets", "The paper's family", "Shipped packs", "Start-up", "Where the time goes: int8"):
        assert title in page
    assert "None" not in page
    assert (file.parent / "images" / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_measures_and_shows_one_part(tmp_path: Path) -> None:
    arguments = ["--only", "start", "--rounds", "1", "--cache", str(tmp_path / "cache"), "--output", str(tmp_path)]
    assert bench.main(arguments) == 0
    assert "kdseg --help" in (tmp_path / bench.PAGE).read_text(encoding="utf-8")
    (tmp_path / bench.PAGE).unlink()
    assert bench.main(["--page", "--cache", str(tmp_path / "cache"), "--output", str(tmp_path)]) == 0
    assert "kdseg --help" in (tmp_path / bench.PAGE).read_text(encoding="utf-8")


def test_a_damaged_file_of_results_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / bench.RESULTS).write_text("{")
    assert bench.main(["--page", "--cache", str(tmp_path / "cache"), "--output", str(tmp_path)]) == 1
    assert "delete it and measure again" in capsys.readouterr().err
    assert not (tmp_path / bench.PAGE).exists()


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bench.interleaved

    def broken_off(*arguments: object, **settings: object) -> object:
        yield next(before(*arguments, **settings))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "interleaved", broken_off)
    arguments = ["--only", "start", "--rounds", "1", "--cache", str(tmp_path / "cache"), "--output", str(tmp_path)]
    assert bench.main(arguments) == bench.INTERRUPTED
    outcomes = read_results(tmp_path / bench.RESULTS).parts["start"].outcomes
    assert [len(outcome.runs) for outcome in outcomes.values()] == [1]
    assert (tmp_path / bench.PAGE).is_file()


def test_what_earlier_code_made_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "made-0123456789ab").mkdir()
    (tmp_path / "mine").mkdir()
    cache = open_cache(tmp_path)
    assert cache.scans.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([cache.folder.name, "mine"])
    assert open_cache(tmp_path) == cache


def test_what_was_made_is_not_made_again(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    made = setting.member(setting.scope.brain, "x1/4"), setting.brain_scan()

    def fail(subject: Subject) -> Run:
        raise AssertionError(f"{subject.name} is made again")

    monkeypatch.setattr("kdbench.setting.run_in_new_process", fail)
    assert (setting.member(setting.scope.brain, "x1/4"), setting.brain_scan()) == made


def test_no_module_of_the_benchmark_imports_torch_before_it_has_to() -> None:
    code = "import bench, sys; sys.exit('torch' in sys.modules)"

    folders = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'Testing' / 'Benchmarks')]!r}; "
    assert subprocess.run([sys.executable, "-c", folders + code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "rounds", "long_rounds"),
    [([], 5, 5), (["--quick"], 3, 1), (["--rounds", "2"], 2, 2), (["--quick", "--rounds", "2"], 2, 1)],
)
def test_quick_has_all_parts_with_fewer_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], rounds: int, long_rounds: int
) -> None:
    measured: list[tuple[str, int, int]] = []

    def note(part: str, setting: Setting, file: Path) -> None:
        measured.append((part, setting.rounds, setting.long_rounds))

    monkeypatch.setattr(bench, "measure", note)
    assert bench.main([*given, "--cache", str(tmp_path / "cache"), "--output", str(tmp_path)]) == 0
    assert measured == [(part, rounds, long_rounds) for part in PARTS]


def test_the_largest_volumes_are_the_long_ones(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.parts.volumes.LARGE_VOXELS", 40 * 40 * 36)
    (subjects,) = PARTS["volumes"](replace(setting, rounds=4, long_rounds=2))
    assert {(subject.labels["scan_size"], subject.rounds) for subject in subjects} == {
        ("32 x 32 x 30", 4),
        ("40 x 40 x 36", 2),
    }


@pytest.mark.parametrize("rounds", ["0", "-1", "many"])
def test_a_number_of_rounds_that_makes_no_sense(rounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--rounds", rounds])
    assert "must be 1 or more" in capsys.readouterr().err

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from KDSegmentatorLib.cli.main import main
from KDSegmentatorLib.errors import (
    CancelledError,
    EngineError,
    ImageWriteError,
    KDSegmentatorError,
    PackError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.version import __version__

ROOT = Path(__file__).resolve().parents[4]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(_: object) -> None:
        raise error

    monkeypatch.setattr("KDSegmentatorLib.cli.packs.run", run)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"kdseg {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["packs"], ["nonsense"], ["segment"], ["packs", "show"]])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: kdseg" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["segment"], ["packs"], ["packs", "list"], []])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert "usage: kdseg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UnsuitableVolumeError("bad scan"), 2, "bad scan"),
        (PackError("bad pack"), 2, "bad pack"),
        (ImageWriteError("disk full"), 1, "disk full"),
        (EngineError("two\n  lines"), 1, "two lines"),
        (KDSegmentatorError("some"), 1, "some"),
        (MemoryError(), 1, "there is not enough memory for this volume; take a smaller size, or crop the volume"),
        (CancelledError("stopped"), 130, "cancelled; nothing was written"),
        (KeyboardInterrupt(), 130, "cancelled; nothing was written"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, error)
    assert main(["packs", "list"]) == code
    assert capsys.readouterr().err == f"kdseg: {message}\n"


def test_unexpected_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError("a defect"))
    with pytest.raises(ZeroDivisionError):
        main(["packs", "list"])


def test_help_starts_fast_and_imports_nothing_heavy() -> None:
    """Processor time, interpreter included: wall time depends on what else the machine does."""
    code = (
        "import sys, time; from KDSegmentatorLib.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'SimpleITK', 'PIL', 'onnxruntime', 'openvino'} & set(sys.modules)\n"
        "print(heavy or 'nothing', time.process_time(), sep='|')"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
        heavy, time_taken = done.stdout.splitlines()[-1].split("|")
        assert heavy == "nothing"
        seconds.append(float(time_taken))
    assert min(seconds) < 0.4


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise than on Linux and macOS")
def test_a_reader_that_has_gone_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m KDSegmentatorLib.cli.main packs list | true",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only on Windows and macOS there is no /dev/full")
def test_a_full_disk_behind_the_output_is_said_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "KDSegmentatorLib.cli.main", "packs", "list"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("kdseg: No space left on device, so that not all could be printed")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="only on Windows shells close files otherwise")
def test_a_closed_output_is_no_failure() -> None:
    command = f"{sys.executable} -m KDSegmentatorLib.cli.main packs verify hippocampus-x1_4 >&-"
    done = subprocess.run(command, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="only on Windows shells close files otherwise")
@pytest.mark.parametrize("redirection", ["2>&-", "2</dev/null", "2>/dev/full"], ids=["closed", "read-only", "full"])
def test_what_nobody_can_read_on_standard_error_changes_no_exit_code(redirection: str) -> None:
    """Shell scripts, and nice, hand on a closed standard error as a file that is open for reading alone."""
    command = f"{sys.executable} -m KDSegmentatorLib packs show nothing {redirection}"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_library_that_does_not_load_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below ``ulimit -v`` scipy says so, after all that came before it fitted."""
    fail_with(monkeypatch, ImportError("failed to map segment from shared object"))
    assert main(["packs", "list"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "failed to map segment" in said
    assert "ulimit -v" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "", "labels.nii.gz", "--pack", "anything"],
        ["segment", "scan.nii.gz", "labels.nii.gz", "--pack", "anything", "--split", ""],
        ["batch", "", "results", "--pack", "anything"],
        ["packs", "install", ""],
    ],
)
def test_an_empty_name_is_not_the_current_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "the name is empty" in capsys.readouterr().err

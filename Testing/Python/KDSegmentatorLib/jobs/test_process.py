"""Jobs with real workers, and what can go wrong with them."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.errors import (
    EngineUnavailableError,
    InsufficientMemoryError,
    JobError,
    PackError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs import attendance, exchange
from KDSegmentatorLib.jobs.batch_files import TABLE_NAME
from KDSegmentatorLib.jobs.events import (
    BatchFinished,
    Cancelled,
    Event,
    Failed,
    Log,
    Progressed,
    RunChanged,
    Segmented,
    Started,
)
from KDSegmentatorLib.jobs.launcher import PythonLauncher
from KDSegmentatorLib.jobs.owned_folder import owned_folder
from KDSegmentatorLib.jobs.process import JobProcess, start_batch, start_segmentation
from KDSegmentatorLib.jobs.request import BatchRequest, SegmentRequest, Settings
from KDSegmentatorLib.packs.lock import locked
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter
from support.generated_family import write_scan

Start = Callable[..., JobProcess]
LONG_SECONDS = 120.0

WAIT_FOR_CANCEL = """
import time
from pathlib import Path
while not Path("cancel").exists():
    time.sleep(0.01)
"""
HANG = """
import subprocess, sys, time
holding = '''
import sys, time
from pathlib import Path
from KDSegmentatorLib.packs.lock import locked
with locked(Path(sys.argv[1]), 60):
    print("held", flush=True)
    time.sleep(600)
'''
child = subprocess.Popen([sys.executable, "-c", holding, {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
from KDSegmentatorLib.packs.lock import locked
from pathlib import Path
with locked(Path({worker!r}), 60):
    print("hanging", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start(settings: Settings, volume: Volume, jobs_folder: Path, faulty: Any) -> Start:
    """Return a function that starts a segmentation, with a fault in its worker."""

    def segment(code: str = "", *, sizes: tuple[str, ...] = ("x1/4",), entropy: bool = False, **at: Any) -> JobProcess:
        request = SegmentRequest(settings=replace(settings, entropy=entropy), sizes=sizes)
        launcher = PythonLauncher(environment=faulty(code, **at))
        return start_segmentation(request, volume, launcher=launcher, temporary_folder=jobs_folder)

    return segment


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def until(job: JobProcess, found: Callable[[Event], bool]) -> Event:
    """Wait for an event."""
    seen: list[Event] = []
    for _ in range(int(LONG_SECONDS * 100)):
        for event in job.poll():
            seen.append(event)
            if found(event):
                return event
        if not job.running:
            break
        job.wait(0.01)
    raise AssertionError(f"the event did not come: {seen}")


def failure(job: JobProcess) -> Failed:
    end = job.wait(LONG_SECONDS)
    assert isinstance(end, Failed), (end, job.poll())
    return end


def released(path: Path) -> bool:
    """Return whether nobody holds a lock, after a while: the system lets go of it when its holder ends."""
    with locked(path, 30):
        return True


def worker_of(job: JobProcess) -> int:
    event = until(job, lambda event: isinstance(event, Started))
    assert isinstance(event, Started)
    return event.pid


def at(stage: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Progressed) and event.stage == stage


def test_a_segmentation_from_start_to_end(start: Start, volume: Volume, store: PackStore, jobs_folder: Path) -> None:
    job = start(entropy=True)
    end = job.wait(LONG_SECONDS)
    assert isinstance(end, Segmented), end
    assert not job.running
    assert end.failures == ()
    (result,) = end.results
    expected = Segmenter("generated", "x1/4", engine="onnxruntime", threads=1, store=store)(volume, entropy=True)
    assert np.array_equal(result.segmentation.volume.voxels, expected.volume.voxels)
    assert result.segmentation.volume.voxels.dtype == expected.volume.voxels.dtype
    assert result.segmentation.volume.affine.tolist() == volume.affine.tolist()
    assert result.segmentation.entropy is not None
    assert expected.entropy is not None
    assert np.array_equal(result.segmentation.entropy.voxels, expected.entropy.voxels)
    assert result.segmentation.labels == expected.labels
    assert replace(result.segmentation.record, seconds={}) == replace(expected.record, seconds={})
    assert [row.name for row in result.statistics] == ["structure 1", "structure 2", "structure 3"]
    assert result.peak_memory is None or result.peak_memory > 10_000_000
    events = job.poll()
    assert isinstance(events[0], Started)
    assert events[-1] is end
    assert job.poll() == []
    stages = [event.stage for event in events if isinstance(event, Progressed)]
    assert list(dict.fromkeys(stages)) == ["load", "preprocess", "windows", "restore", "write"]
    assert [event.state for event in events if isinstance(event, RunChanged)] == ["running", "done"]
    assert names(jobs_folder) == []


def test_several_sizes_one_of_which_there_is_not(start: Start) -> None:
    end = start(sizes=("x1", "x1/8", "x1/4")).wait(LONG_SECONDS)
    assert isinstance(end, Segmented), end
    assert [result.segmentation.record.size for result in end.results] == ["x1", "x1/4"]
    assert not np.array_equal(*(result.segmentation.volume.voxels for result in end.results))
    (failed,) = end.failures
    assert failed.size == "x1/8"
    assert isinstance(failed.error, PackError)


def test_an_image_file_and_this_process_own_python(settings: Settings, scan: Path, jobs_folder: Path) -> None:
    request = SegmentRequest(settings=settings, sizes=("auto",), input=str(scan))
    end = start_segmentation(request, temporary_folder=jobs_folder).wait(LONG_SECONDS)
    assert isinstance(end, Segmented), end
    assert end.results[0].size == "auto"
    assert end.results[0].size_reason is not None


def test_two_jobs_at_once(start: Start, jobs_folder: Path) -> None:
    jobs = [start(sizes=("x1",)), start(sizes=("x1/4",))]
    sizes = []
    for job in jobs:
        end = job.wait(LONG_SECONDS)
        assert isinstance(end, Segmented), end
        sizes.append(end.results[0].segmentation.record.size)
    assert sizes == ["x1", "x1/4"]
    assert names(jobs_folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="libc's sleep is found on Linux and macOS")
def test_an_application_that_keeps_pythons_lock_gets_its_result(start: Start) -> None:
    """As 3D Slicer does: other threads run while its timers call Python, and only then."""
    sleep = ctypes.PyDLL(None).usleep
    job = start()
    events: list[Event] = []
    for _ in range(6000):
        if events and isinstance(events[-1], Segmented):
            break
        sleep(20_000)
        events += job.poll()
    assert isinstance(events[-1], Segmented), events
    assert any(isinstance(event, Progressed) and event.stage == "windows" for event in events)


def nested(folder: Path) -> Path:
    """Return a folder whose path has more than a thousand characters."""
    for n in range(8):
        folder = folder / f"{n}{'x' * 120}"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the working directory of a process is limited on Windows")
def test_very_long_paths(store: PackStore, settings: Settings, volume: Volume, tmp_path: Path) -> None:
    folder = nested(tmp_path)
    shutil.copytree(store.user_folder, folder / "packs")
    settings = replace(settings, user_packs=str(folder / "packs"))
    job = start_segmentation(SegmentRequest(settings=settings, sizes=("x1/4",)), volume, temporary_folder=folder)
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()
    write_scan(folder / "scan.nii.gz")
    request = BatchRequest(
        settings=settings,
        size="x1/4",
        input_folder=str(folder),
        inputs=("scan.nii.gz",),
        output_folder=str(folder / "results"),
    )
    end = start_batch(request, temporary_folder=folder).wait(LONG_SECONDS)
    assert isinstance(end, BatchFinished), end
    assert [file.state for file in end.files] == ["done"]
    assert names(folder) == ["packs", "results", "scan.nii.gz"]


def test_spaces_and_other_letters(store: PackStore, settings: Settings, volume: Volume, tmp_path: Path) -> None:
    folder = tmp_path / "Jürgen's Gehirn & Ω 脑 (1)"
    folder.mkdir()
    shutil.copytree(store.user_folder, folder / "packs")
    settings = replace(settings, user_packs=str(folder / "packs"))
    job = start_segmentation(SegmentRequest(settings=settings, sizes=("x1/4",)), volume, temporary_folder=folder)
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()
    write_scan(folder / "scan.nii.gz").rename(folder / "Müller 脑.nii.gz")
    request = BatchRequest(
        settings=settings,
        size="x1/4",
        input_folder=str(folder),
        inputs=("Müller 脑.nii.gz",),
        output_folder=str(folder / "Ergebnisse ß"),
    )
    end = start_batch(request, temporary_folder=folder).wait(LONG_SECONDS)
    assert isinstance(end, BatchFinished), end
    assert [file.message for file in end.files] == [""]
    assert names(folder / "Ergebnisse ß") == ["Müller 脑-labels.nii.gz", "Müller 脑-record.json", TABLE_NAME]


def test_what_native_libraries_print_harms_nothing(start: Start) -> None:
    job = start(r"""
        import os, threading, time
        def print_on():
            while True:
                os.write(1, b"native \xff junk without an end ")
                os.write(2, b'{"kdseg": 1, "event": ')
                time.sleep(0.001)
        threading.Thread(target=print_on, daemon=True).start()
    """)
    end = job.wait(LONG_SECONDS)
    assert isinstance(end, Segmented), end
    events = job.poll()
    assert any(isinstance(event, Log) and "native \ufffd junk" in event.message for event in events)
    assert [event.state for event in events if isinstance(event, RunChanged)] == ["running", "done"]


@pytest.mark.parametrize("stage", ["load", "preprocess", "windows", "restore", "write"])
def test_cancelling_at_each_stage(start: Start, jobs_folder: Path, stage: str) -> None:
    job = start(WAIT_FOR_CANCEL, stage=stage)
    until(job, at(stage))
    job.cancel()
    job.cancel()
    end = job.wait(LONG_SECONDS)
    assert end == Cancelled()
    events = job.poll()
    assert events[-1] == end
    assert all(event.stage == stage for event in events if isinstance(event, Progressed))
    assert names(jobs_folder) == []


def test_cancelling_before_there_is_a_worker(start: Start, jobs_folder: Path) -> None:
    job = start()
    job.cancel()
    assert job.wait(LONG_SECONDS) == Cancelled()
    assert names(jobs_folder) == []


def test_cancelling_what_has_ended_changes_nothing(start: Start) -> None:
    job = start()
    end = job.wait(LONG_SECONDS)
    job.cancel()
    assert isinstance(end, Segmented)
    assert job.wait(0) is end
    assert job.poll()[-1] is end


def test_a_worker_that_does_not_listen_is_ended_with_its_processes(
    start: Start, jobs_folder: Path, tmp_path: Path
) -> None:
    locks = tmp_path / "child.lock", tmp_path / "worker.lock"
    job = start(HANG.format(child=str(locks[0]), worker=str(locks[1])), stage="windows")
    until(job, lambda event: isinstance(event, Log) and event.message == "hanging")
    job.cancel()
    assert job.wait(LONG_SECONDS) == Cancelled()
    assert all(released(lock) for lock in locks)
    assert names(jobs_folder) == []


def test_a_worker_that_was_killed(start: Start, jobs_folder: Path) -> None:
    job = start(WAIT_FOR_CANCEL, stage="windows")
    pid = worker_of(job)
    until(job, at("windows"))
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    error = failure(job).error
    assert isinstance(error, JobError)
    assert "stopped before it was done" in str(error)
    assert "take a smaller size" in str(error)
    assert names(jobs_folder) == []


def test_a_worker_that_crashes_leaves_its_place_in_the_log(start: Start, jobs_folder: Path) -> None:
    failed = failure(start("import ctypes; ctypes.string_at(0)", stage="windows"))
    assert isinstance(failed.error, JobError)
    assert "stopped before it was done" in str(failed.error)
    assert any("string_at" in line for line in failed.log)
    assert names(jobs_folder) == []


def test_a_worker_that_ends_without_a_result(start: Start) -> None:
    assert "stopped before it was done (exit code 0)" in str(
        failure(start("import os; os._exit(0)", stage="write")).error
    )


@pytest.mark.parametrize("name", ["result.json", "labels-0.npy", "entropy-0.npy"])
@pytest.mark.parametrize("change", ["path.write_bytes(path.read_bytes()[:-7])", "path.unlink()"])
def test_a_result_that_is_truncated_or_missing(start: Start, jobs_folder: Path, name: str, change: str) -> None:
    job = start(
        f"""
        from pathlib import Path
        from KDSegmentatorLib.jobs import reporter
        send = reporter.Reporter.send
        def sending(self, message):
            if type(message).__name__ == "Complete":
                path = Path({name!r})
                {change}
            send(self, message)
        reporter.Reporter.send = sending
        """,
        entropy=True,
    )
    error = failure(job).error
    assert isinstance(error, JobError)
    assert "not complete" in str(error) or "stopped before it was done" in str(error)
    assert names(jobs_folder) == []


def test_a_worker_that_crashes_after_its_result_does_no_harm(start: Start) -> None:
    """Native libraries do so, when they are unloaded."""
    job = start("import atexit, ctypes; atexit.register(ctypes.string_at, 0)")
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()


def test_a_worker_that_does_not_end_after_its_result_does_no_harm(
    start: Start, monkeypatch: pytest.MonkeyPatch, jobs_folder: Path
) -> None:
    monkeypatch.setattr(attendance, "ENDING_SECONDS", 0.1)
    job = start("import atexit, time; atexit.register(time.sleep, 600)")
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()
    assert names(jobs_folder) == []


def test_a_process_that_outlives_the_worker_is_ended(start: Start, tmp_path: Path) -> None:
    code = HANG.partition("from KDSegmentatorLib.packs.lock import locked\nfrom pathlib")[0]
    lock = tmp_path / "child.lock"
    code = code.replace(", stdout=subprocess.PIPE)", ")").replace("child.stdout.readline()", "")
    job = start(code.format(child=str(lock)))
    until(job, lambda event: isinstance(event, Log) and event.message == "held")
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()
    assert released(lock)


def test_a_full_disk_when_the_volume_is_handed_over(
    start: Start, jobs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, array: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exchange, "_write_array", full)
    job = start()
    error = failure(job).error
    assert isinstance(error, JobError)
    assert "the disk is full" in str(error)
    assert names(jobs_folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process exist on Linux and macOS")
def test_a_full_disk_when_the_result_is_written(start: Start, jobs_folder: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    error = failure(start(code, stage="restore")).error
    assert isinstance(error, JobError)
    assert "the disk is full" in str(error)
    assert names(jobs_folder) == []


@pytest.mark.parametrize(
    ("changes", "sizes", "kind"),
    [
        ({"task": "spleen"}, ("x1",), PackError),
        ({"device": "cuda"}, ("x1",), EngineUnavailableError),
        ({"threads": 0}, ("x1",), JobError),
        ({}, (), JobError),
    ],
)
def test_errors_keep_their_kind(
    settings: Settings, volume: Volume, jobs_folder: Path, changes: dict[str, Any], sizes: tuple[str, ...], kind: type
) -> None:
    request = SegmentRequest(settings=replace(settings, **changes), sizes=sizes)
    assert type(failure(start_segmentation(request, volume, temporary_folder=jobs_folder)).error) is kind
    assert names(jobs_folder) == []


def test_too_little_memory_is_said_so(start: Start) -> None:
    assert isinstance(failure(start("raise MemoryError", stage="windows")).error, InsufficientMemoryError)


def test_a_volume_that_is_no_scan(settings: Settings, volume: Volume, jobs_folder: Path) -> None:
    labels = volume.with_voxels((volume.voxels > 100).astype(np.uint8))
    request = SegmentRequest(settings=settings, sizes=("x1",))
    assert isinstance(
        failure(start_segmentation(request, labels, temporary_folder=jobs_folder)).error, UnsuitableVolumeError
    )


def test_a_defect_of_the_worker_comes_with_its_log(start: Start) -> None:
    failed = failure(start("raise KeyError('surprise')", stage="windows"))
    assert "surprise" in str(failed.error)
    assert any(line.startswith("Traceback") for line in failed.log)


def test_a_python_that_is_not_there(settings: Settings, volume: Volume, jobs_folder: Path, tmp_path: Path) -> None:
    request = SegmentRequest(settings=settings, sizes=("x1",))
    launcher = PythonLauncher(tmp_path / "no python")
    error = failure(start_segmentation(request, volume, launcher=launcher, temporary_folder=jobs_folder)).error
    assert isinstance(error, JobError)
    assert "Python cannot be started" in str(error)
    assert names(jobs_folder) == []


def test_a_python_that_cannot_load_the_library(start: Start) -> None:
    failed = failure(start("import sys; sys.modules['KDSegmentatorLib'] = None"))
    assert isinstance(failed.error, JobError)
    assert any("KDSegmentatorLib" in line for line in failed.log)


def test_another_version_of_the_library(start: Start, jobs_folder: Path) -> None:
    job = start("from KDSegmentatorLib.jobs import lines; lines.PROTOCOL_VERSION = 2")
    assert "restart the application" in str(failure(job).error)
    assert names(jobs_folder) == []


def test_a_folder_for_temporary_files_that_is_not_there(settings: Settings, volume: Volume, tmp_path: Path) -> None:
    request = SegmentRequest(settings=settings, sizes=("x1",))
    error = failure(start_segmentation(request, volume, temporary_folder=tmp_path / "missing")).error
    assert isinstance(error, JobError)


def test_a_defect_of_our_own_does_not_leave_the_owner_waiting(
    settings: Settings, volume: Volume, jobs_folder: Path
) -> None:
    def broken(folder: Path) -> Any:
        raise ZeroDivisionError

    request = SegmentRequest(settings=settings, sizes=("x1",))
    job = start_segmentation(request, volume, launcher=broken, temporary_folder=jobs_folder)
    assert "ZeroDivisionError" in str(failure(job).error)
    assert names(jobs_folder) == []


@pytest.fixture
def two_processes(tmp_path: Path) -> Path:
    """Return a program that starts Python, passes everything on, and waits, as PythonSlicer does."""
    program = tmp_path / "PythonSlicer"
    program.write_text(
        textwrap.dedent(f"""\
            #!{sys.executable}
            import subprocess, sys
            code = subprocess.call([{sys.executable!r}, *sys.argv[1:]])
            sys.exit(code if code >= 0 else 1)
        """),
        encoding="utf-8",
    )
    program.chmod(0o700)
    return program


@pytest.mark.skipif(sys.platform == "win32", reason="a script is a program on Linux and macOS")
class TestPythonSlicer:
    """A worker that is the child of another process."""

    def start(
        self, program: Path, environment: dict[str, str], settings: Settings, volume: Volume, folder: Path
    ) -> JobProcess:
        return start_segmentation(
            SegmentRequest(settings=settings, sizes=("x1/4",)),
            volume,
            launcher=PythonLauncher(program, environment),
            temporary_folder=folder,
        )

    def test_it_works(
        self, two_processes: Path, settings: Settings, volume: Volume, jobs_folder: Path, faulty: Any
    ) -> None:
        job = self.start(two_processes, faulty(""), settings, volume, jobs_folder)
        assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()

    def test_both_are_ended(
        self, two_processes: Path, settings: Settings, volume: Volume, jobs_folder: Path, faulty: Any, tmp_path: Path
    ) -> None:
        locks = tmp_path / "child.lock", tmp_path / "worker.lock"
        code = HANG.format(child=str(locks[0]), worker=str(locks[1]))
        job = self.start(two_processes, faulty(code, stage="windows"), settings, volume, jobs_folder)
        until(job, lambda event: isinstance(event, Log) and event.message == "hanging")
        job.cancel()
        assert job.wait(LONG_SECONDS) == Cancelled()
        assert all(released(lock) for lock in locks)

    def test_a_worker_whose_launcher_was_killed_is_ended(
        self, two_processes: Path, settings: Settings, volume: Volume, jobs_folder: Path, faulty: Any, tmp_path: Path
    ) -> None:
        locks = tmp_path / "child.lock", tmp_path / "worker.lock"
        hang = HANG.format(child=str(locks[0]), worker=str(locks[1])).replace(
            'print("hanging", flush=True)', 'import os; print("launcher", os.getppid(), flush=True)'
        )
        job = self.start(two_processes, faulty(hang, stage="windows"), settings, volume, jobs_folder)
        event = until(job, lambda event: isinstance(event, Log) and event.message.startswith("launcher"))
        assert isinstance(event, Log)
        os.kill(int(event.message.split()[1]), signal.SIGKILL)
        assert "stopped before it was done" in str(failure(job).error)
        assert all(released(lock) for lock in locks)
        assert names(jobs_folder) == []


OWNER = """
import os, sys
from pathlib import Path
import numpy as np
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.events import Log
from KDSegmentatorLib.jobs.process import start_segmentation
from KDSegmentatorLib.jobs.request import read_request
request = read_request(Path(sys.argv[1]) / "request.json")
volume = Volume(np.random.default_rng(3).gamma(2, 100, size=(20, 24, 18)).astype(np.float32), (1, 1, 1))
job = start_segmentation(request, volume, temporary_folder=Path(sys.argv[1]))
while job.running:
    if any(isinstance(event, Log) and event.message == "held" for event in job.poll()):
        os._exit(7)
    job.wait(0.01)
"""


def test_a_worker_whose_owner_is_gone_stops_and_the_next_job_removes_what_is_left(
    settings: Settings, jobs_folder: Path, tmp_path: Path, faulty: Any
) -> None:
    """The work goes on as soon as the owner is gone, to its next step, at which the worker has to notice."""
    from KDSegmentatorLib.jobs.request import write_request

    lock, after = tmp_path / "worker.lock", tmp_path / "after"
    environment = faulty(
        f"""
        import atexit, contextlib, time
        from pathlib import Path
        from KDSegmentatorLib.jobs.cancellation import stdin_closed
        from KDSegmentatorLib.packs.lock import locked
        globals()["lock"] = contextlib.ExitStack()
        lock.enter_context(locked(Path({str(lock)!r}), 60))
        print("held", flush=True)
        while not stdin_closed():
            time.sleep(0.01)
        import sys
        from KDSegmentatorLib.jobs import worker
        main = sys.modules["__main__"]
        gave_up = main._gave_up
        def giving_up(error, *rest):
            Path({str(after)!r}).write_text(type(error).__name__)
            return gave_up(error, *rest)
        main._gave_up = giving_up
        """,
        stage="windows",
    )
    write_request(SegmentRequest(settings=settings, sizes=("x1/4",)), jobs_folder)
    owner = subprocess.run(
        [sys.executable, "-c", OWNER, str(jobs_folder)], env=environment, timeout=LONG_SECONDS, check=False
    )
    assert owner.returncode == 7
    assert released(lock)
    assert after.read_text() == "CancelledError"
    (jobs_folder / "request.json").unlink()
    assert len(names(jobs_folder)) == 2
    with owned_folder(jobs_folder):
        pass
    assert names(jobs_folder) == []


@pytest.fixture
def batch(settings: Settings, scan: Path, tmp_path: Path) -> BatchRequest:
    write_scan(scan.with_name("b.nii.gz"))
    scan.with_name("bad.nii").write_bytes(b"no image")
    return BatchRequest(
        settings=settings,
        size="x1/4",
        input_folder=str(scan.parent),
        inputs=("scan.nii.gz", "bad.nii", "b.nii.gz"),
        output_folder=str(tmp_path / "results"),
    )


def test_a_batch_is_ended_and_resumed(batch: BatchRequest, jobs_folder: Path, tmp_path: Path, faulty: Any) -> None:
    output = tmp_path / "results"
    launcher = PythonLauncher(environment=faulty(WAIT_FOR_CANCEL, stage="write", run=2, done=1))
    job = start_batch(batch, launcher=launcher, temporary_folder=jobs_folder)
    pid = worker_of(job)
    until(job, lambda event: isinstance(event, Progressed) and (event.run, event.stage) == (2, "write"))
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    assert isinstance(failure(job).error, JobError)
    assert names(output) == ["scan-labels.nii.gz", "scan-record.json"]
    job = start_batch(batch, launcher=launcher, temporary_folder=jobs_folder)
    until(job, lambda event: isinstance(event, Progressed) and (event.run, event.stage) == (2, "write"))
    job.cancel()
    assert job.wait(LONG_SECONDS) == Cancelled()
    assert names(output) == ["scan-labels.nii.gz", "scan-record.json"]
    end = start_batch(batch, temporary_folder=jobs_folder).wait(LONG_SECONDS)
    assert isinstance(end, BatchFinished), end
    assert [(file.input, file.state) for file in end.files] == [
        ("scan.nii.gz", "skipped"), ("bad.nii", "failed"), ("b.nii.gz", "done"),
    ]  # fmt: skip
    assert end.table == str(output / TABLE_NAME)
    assert names(jobs_folder) == []


def test_a_batch_of_nothing(batch: BatchRequest, jobs_folder: Path) -> None:
    job = start_batch(replace(batch, inputs=()), temporary_folder=jobs_folder)
    assert "at least 1" in str(failure(job).error)

"""Small student packs, a scan, and real worker processes, into which faults can be put."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.launcher import PythonLauncher
from KDSegmentatorLib.jobs.messages import BatchRequest, Message, Progressed, Request, RunChanged
from KDSegmentatorLib.jobs.process import JobProcess, start_segmentation
from KDSegmentatorLib.jobs.reporter import Reporter
from KDSegmentatorLib.jobs.worker_process import Workers
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import build_size, write_scan
from support.job_processes import Start, segment

ROOT = Path(__file__).resolve().parents[4]
SIZES = ("x1", "x1/4")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's pack folder with two sizes installed."""
    folder = tmp_path_factory.mktemp("store")
    store = PackStore(folder, tmp_path_factory.mktemp("shipped"))
    for size in SIZES:
        store.install(build_size(tmp_path_factory.mktemp("built"), size).folder)
    return folder


@pytest.fixture
def store(built: Path, tmp_path: Path) -> PackStore:
    """Return a store of this test's own."""
    user = tmp_path / "packs"
    shutil.copytree(built, user)
    return PackStore(user, tmp_path / "none shipped")


@pytest.fixture
def settings(store: PackStore) -> Request:
    return Request(
        task="generated",
        user_packs=str(store.user_folder),
        shipped_packs=str(store.shipped_folder),
        options=RunOptions(size="x1/4", engine="onnxruntime", threads=1),
    )


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Return the file of a scan in a folder of its own."""
    folder = tmp_path / "scans"
    folder.mkdir()
    return write_scan(folder / "scan.nii.gz")


@pytest.fixture
def volume() -> Volume:
    """Return an oblique scan."""
    cosine, sine = float(np.cos(0.3)), float(np.sin(0.3))
    return Volume(
        np.random.default_rng(3).gamma(2, 100, size=(20, 24, 18)).astype(np.float32),
        (1.1, 0.9, 1.7),
        (12.0, -34.0, 56.0),
        ((cosine, -sine, 0.0), (sine, cosine, 0.0), (0.0, 0.0, 1.0)),
    )


@pytest.fixture
def jobs_folder(tmp_path: Path) -> Path:
    """Return where the folders of jobs are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Return a folder with two scans."""
    folder = tmp_path / "scans"
    folder.mkdir()
    write_scan(folder / "a.nii.gz")
    write_scan(folder / "b ü.nrrd", np.random.default_rng(8).gamma(2, 100, size=(18, 20, 22)).astype(np.float32))
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return where the results of a batch shall be."""
    return tmp_path / "results"


@pytest.fixture
def request_(settings: Request, scans: Path, output: Path) -> BatchRequest:
    """Return a batch of the two scans."""
    return BatchRequest(
        **msgspec.structs.asdict(settings),
        input_folder=str(scans),
        inputs=("a.nii.gz", "b ü.nrrd"),
        output_folder=str(output),
    )


Faulty = Callable[..., dict[str, str]]
"""Code to run, and the stage of the work to run it at (None: at the start) -> environment of a worker that does so."""

_AT_STAGE = """
from KDSegmentatorLib.jobs import reporter

original = reporter.RunReporter._progressed

def progressed(self, progress):
    original(self, progress)
    if (self._number, progress.stage, progress.done) == ({run}, {stage!r}, {done}):
        act()

reporter.RunReporter._progressed = progressed
"""


@pytest.fixture
def faulty(tmp_path: Path) -> Faulty:
    """Return a function that puts code into workers, by Python's own start-up file."""

    def environment(code: str, *, stage: str | None = None, done: int = 0, run: int = 0) -> dict[str, str]:
        text = textwrap.dedent(code)
        if stage is not None:
            text = f"def act():\n{textwrap.indent(text, '    ')}\n" + _AT_STAGE.format(run=run, stage=stage, done=done)
        folder = tmp_path / "faults"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
        path = os.pathsep.join([str(ROOT), str(folder)])
        return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"}

    return environment


@pytest.fixture
def start(settings: Request, volume: Volume, jobs_folder: Path, faulty: Any) -> Start:
    """Return a function that starts a segmentation, with a fault in its worker."""

    def starting(code: str = "", *, sizes: tuple[str, ...] = ("x1/4",), entropy: bool = False, **at: Any) -> JobProcess:
        workers = Workers(PythonLauncher(environment=faulty(code, **at)), jobs_folder)
        return start_segmentation(segment(settings, entropy=entropy, sizes=sizes), volume, workers=workers)

    return starting


class RecordingReporter(Reporter):
    """Keeps what the work reports."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.messages.append(message)

    def reached(self, stage: str, run: int = 0) -> bool:
        """Return whether a run got to a stage."""
        return any(
            isinstance(message, Progressed) and message.run == run and message.stage == stage
            for message in self.messages
        )

    @property
    def states(self) -> list[tuple[str, str]]:
        """Names and states of the runs, in the order of the reports."""
        return [(message.name, message.state) for message in self.messages if isinstance(message, RunChanged)]


@pytest.fixture
def reporter() -> RecordingReporter:
    return RecordingReporter()

"""A computer with three small student packs installed, and a scan in a folder: real files and real inference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.cli.main import main
from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import ALPHAS, build_size, write_scan

Run = Callable[..., tuple[int, str, str]]
"""Arguments of ``kdseg`` -> exit code, standard output, standard error."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's pack folder with all sizes installed."""
    folder = tmp_path_factory.mktemp("store")
    store = PackStore(folder, tmp_path_factory.mktemp("shipped"))
    for size in ALPHAS:
        store.install(build_size(tmp_path_factory.mktemp("built"), size).folder)
    return folder


@pytest.fixture
def store(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackStore:
    """Return the store that ``kdseg`` uses in this test, with all sizes installed and nothing shipped."""
    user, shipped = tmp_path / "user-packs", tmp_path / "shipped-packs"
    shutil.copytree(built, user)
    shipped.mkdir()
    monkeypatch.setenv("KDSEGMENTATOR_PACKS", str(user))
    monkeypatch.setattr("KDSegmentatorLib.packs.store.default_shipped_folder", lambda: shipped)
    return PackStore()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return an empty folder for input and output."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def kdseg(store: PackStore, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``kdseg`` in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # argparse, on bad usage and after --help
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def scan(work: Path) -> Path:
    """Return the file of a scan that the packs can segment."""
    return write_scan(work / "scan.nii.gz")

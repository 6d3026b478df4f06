"""A node's folder with a small pack, and its parts without threads or processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.node.new_node import make_node
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.settings import SETTINGS_NAME
from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import build_size

SETTINGS = """
[watch]
folder = "in"
settled_seconds = 0.01
poll_seconds = 0.1

[[target]]
name = "out"
kind = "folder"
folder = "out"

[[rule]]
name = "generated"
task = "generated"
outputs = ["labels", "statistics"]
targets = ["out"]
options = { engine = "onnxruntime", threads = 1 }

[limits]
free_gb = 0.1
used_percent = 100

[delivery]
pauses = [0.2]

[page]
port = 0
"""


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a pack that is trivially fast."""
    return build_size(tmp_path_factory.mktemp("built"), "x1/4").folder


@pytest.fixture(scope="session")
def newer_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return another version of it."""
    return build_size(tmp_path_factory.mktemp("newer"), "x1/4", version="1.1.0", layers=2).folder


@pytest.fixture
def make(tmp_path: Path, pack: Path) -> Callable[..., Places]:
    """Return a function that makes a node's folder, with some text added to its settings or put in place of it."""

    def made(more: str = "", *, settings: str = SETTINGS, name: str = "node") -> Places:
        root = tmp_path / name
        root.mkdir()
        (root / SETTINGS_NAME).write_text(settings + more, encoding="utf-8")
        (root / "secrets").mkdir(mode=0o700)
        make_node(root)
        PackStore(root / "packs").install(pack)
        return Places(root)

    return made


@pytest.fixture(autouse=True)
def own_log() -> None:
    """Let the node's own lines reach pytest, whatever a test before set up."""
    own = logging.getLogger("KDSegmentatorLib.node")
    own.propagate = True
    for handler in list(own.handlers):
        own.removeHandler(handler)
        handler.close()
    own.setLevel(logging.INFO)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of tests are on this machine, whatever proxy it uses."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)

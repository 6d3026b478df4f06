"""Pack folders that appear whole: a kill in the moment when neither the earlier nor the new pack is in place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.export.pack_folder import copy_pack
from KDSegmentatorLib.io.files import restore_folder
from KDSegmentatorLib.packs.pack import StudentPack, open_pack, verify_pack
from support.generated_packs import manifest, write_pack

REPOSITORY = Path(__file__).parents[4]

KILLED_BETWEEN_THE_RENAMES = """
import os, signal, sys
from pathlib import Path
from distillation.export.pack_folder import copy_pack
from KDSegmentatorLib.io import files
from KDSegmentatorLib.packs.pack import open_pack

rename, calls = files.replace, []

def replace(source, target):
    calls.append(source)
    if len(calls) == 2:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    rename(source, target)

files.replace = replace
copy_pack(open_pack(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.fixture
def earlier(tmp_path: Path) -> StudentPack:
    """A pack in its place."""
    return write_pack(tmp_path / "packs" / "generated-x1_4")


@pytest.fixture
def newer(tmp_path: Path) -> StudentPack:
    """Another version of it, somewhere else."""
    return write_pack(tmp_path / "new", manifest=manifest(version="2.0.0"))


@pytest.fixture
def killed(earlier: StudentPack, newer: StudentPack) -> Path:
    """Where the earlier pack belongs, after a process that put the newer one there was killed."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_BETWEEN_THE_RENAMES, str(newer.folder), str(earlier.folder.parent)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    assert done.returncode not in (0, 1)
    assert not earlier.folder.exists()
    return earlier.folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_pack_that_a_kill_left_aside_is_put_back(killed: Path) -> None:
    restore_folder(killed)
    pack = open_pack(killed)
    verify_pack(pack)
    assert pack.manifest.version == "1.0.0"
    assert not [name for name in names(killed.parent) if "-previous-" in name]


def test_the_next_start_puts_it_back_even_if_it_fails(
    killed: Path, newer: StudentPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.copyfile", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        copy_pack(newer, killed.parent)
    assert open_pack(killed).manifest.version == "1.0.0"
    assert copy_pack(newer, killed.parent).manifest.version == "2.0.0"
    assert not [name for name in names(killed.parent) if "-previous-" in name]


def test_nothing_else_is_touched(earlier: StudentPack) -> None:
    folder = earlier.folder
    others = [".generated-x1_4-previous-notes", ".generated-x1_4", ".generated-x1-previous-0123456789ab"]
    for name in others:
        (folder.parent / name).mkdir()
    leftover = folder.parent / ".generated-x1_4-previous-0123456789ab"
    leftover.mkdir()
    restore_folder(folder)
    assert names(folder.parent) == sorted([folder.name, *others])
    restore_folder(folder.parent / "nowhere" / "pack")
    assert not (folder.parent / "nowhere").exists()

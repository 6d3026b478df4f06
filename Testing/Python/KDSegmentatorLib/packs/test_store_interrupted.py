"""A full disk or a kill at any moment: a usable pack stays."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.io import files
from KDSegmentatorLib.packs.pack_archive import write_archive
from KDSegmentatorLib.packs.store import PackStore
from support.pack_stores import ID, listing, versions

BuildPack = Callable[..., Path]


class Faults:
    """Lets the n-th operation that changes the disk fail.

    Args:
        at: which operation, from 0.
        error: what it raises.
        for_ever: also all operations after it, as if the process had been killed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException, *, for_ever: bool) -> None:
        self.count = 0
        self._at, self._error, self._for_ever = at, error, for_ever
        for owner, name in ((Path, "mkdir"), (Path, "replace"), (shutil, "copyfile"), (os, "fsync")):
            self._patch(monkeypatch, owner, name, lambda *_, **__: True)
        self._patch(monkeypatch, Path, "open", lambda _, mode="r", *__, **___: mode[0] in "wx")
        if for_ever:
            self._patch(monkeypatch, Path, "unlink", lambda *_, **__: True)
            self._patch(monkeypatch, files.shutil, "rmtree", lambda *_, **__: True)

    def _patch(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, counts: Callable[..., bool]) -> None:
        really = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if counts(*arguments, **options):
                self.count += 1
                if self.count == self._at + 1 or (self._for_ever and self.count > self._at):
                    raise self._error
            return really(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    @property
    def happened(self) -> bool:
        return self.count > self._at


@pytest.mark.parametrize("as_archive", [False, True])
def test_a_full_disk_at_any_moment_changes_nothing(
    packs: PackStore, build_pack: BuildPack, tmp_path: Path, as_archive: bool
) -> None:
    packs.install(build_pack(version="0.9.0"))
    installed = packs.install(build_pack())
    before = listing(packs)
    source = build_pack(version="1.1.0")
    if as_archive:
        write_archive(source, tmp_path / "p.kdpack")
        source = tmp_path / "p.kdpack"
    full = OSError(errno.ENOSPC, "No space left on device")
    committed = False
    for at in itertools.count():
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, full, for_ever=False)
            try:
                packs.install(source)
            except PackError as error:
                assert "the disk is full" in str(error)
            if not faults.happened:
                break
        if versions(packs) == ["1.1.0"]:  # the failure came after the one step that counts
            committed = True
            packs.verify(ID)
            packs.roll_back(ID)
        else:
            assert not committed
            assert listing(packs) == before
            assert packs.verify(ID) == installed
            assert packs.previous(ID) is not None
    assert at > 5
    assert versions(packs) == ["1.1.0"]


def test_a_kill_at_any_moment_leaves_a_usable_pack(packs: PackStore, build_pack: BuildPack) -> None:
    class Killed(BaseException):
        pass

    old, new = build_pack(), build_pack(version="1.1.0", seed=1)
    seen = set()
    for at in itertools.count():
        shutil.rmtree(packs.user_folder, ignore_errors=True)
        packs.install(old)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, Killed(), for_ever=True)
            with contextlib.suppress(Killed):
                packs.install(new)
            if not faults.happened:
                break
        restarted = PackStore(packs.user_folder, packs.shipped_folder)
        seen.update(versions(restarted))
        restarted.verify(ID)
        assert restarted.damaged() == []
        restarted.install(restarted.get(ID).folder)  # changes nothing, but sweeps up
        restarted.verify(ID)
        kept = {path.name for path in (packs.user_folder / ID).iterdir()} - {"installed.json"}
        pointer = json.loads((packs.user_folder / ID / "installed.json").read_text())
        assert kept == {name for name in pointer.values() if name}
        assert [path.name for path in packs.user_folder.iterdir() if path.name.startswith(".staging")] == []
        restarted.install(new)
        assert versions(restarted) == ["1.1.0"]
    assert at > 8
    assert seen == {"1.0.0", "1.1.0"}


KILLED_BEFORE_THE_LAST_STEP = """
import os, sys
from pathlib import Path
from KDSegmentatorLib.io import files
from KDSegmentatorLib.packs import store
def replace(source, target, really=files.replace):
    if target.name == "installed.json":
        os._exit(9)
    really(source, target)
files.replace = replace
store.PackStore(sys.argv[1], sys.argv[2]).install(sys.argv[3])
"""


def test_a_killed_process_frees_the_store(packs: PackStore, build_pack: BuildPack) -> None:
    installed = packs.install(build_pack())
    arguments = [packs.user_folder, packs.shipped_folder, build_pack(version="1.1.0")]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_THE_LAST_STEP, *map(str, arguments)], check=False, timeout=60
    )
    assert done.returncode == 9
    assert packs.verify(ID) == installed
    assert len(list((packs.user_folder / ID).iterdir())) == 4
    packs.install(build_pack(version="1.2.0"))
    assert versions(packs) == ["1.2.0"]
    assert packs.previous(ID) == installed


def test_a_folder_that_cannot_be_written(packs: PackStore, build_pack: BuildPack) -> None:
    packs.user_folder.write_text("a file where the folder should be")
    with pytest.raises(PackError, match=r"could not be written|cannot be written"):
        packs.install(build_pack())

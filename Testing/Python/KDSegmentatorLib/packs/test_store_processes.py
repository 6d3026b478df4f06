"""Several processes change and read one store."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.io.lock import locked
from KDSegmentatorLib.packs import store
from KDSegmentatorLib.packs.store import PackStore
from support.pack_stores import ID, listing, versions

BuildPack = Callable[..., Path]


def test_a_busy_store_says_so(packs: PackStore, build_pack: BuildPack, monkeypatch: pytest.MonkeyPatch) -> None:
    packs.install(build_pack())
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    with locked(packs.user_folder / ".lock", 0):
        for act in (lambda: packs.install(build_pack(version="2.0.0")), lambda: packs.remove(ID)):
            with pytest.raises(PackError, match="the packs cannot be changed: another process is at work"):
                act()
        assert versions(packs) == ["1.0.0"]


INSTALL_SEVERAL = """
import sys
from KDSegmentatorLib.packs.store import PackStore
store = PackStore(sys.argv[1], sys.argv[2])
for path in sys.argv[3:]:
    store.install(path)
"""


def test_processes_install_one_after_another_while_others_read(packs: PackStore, build_pack: BuildPack) -> None:
    sources = [build_pack(version=f"1.{n}.0", seed=n) for n in range(6)]
    packs.install(sources[0])
    done = threading.Event()
    problems: list[BaseException] = []

    def read() -> None:
        while not done.is_set():
            try:
                packs.get(ID).head()
            except BaseException as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    folders = [str(packs.user_folder), str(packs.shipped_folder)]
    processes = [
        subprocess.Popen([sys.executable, "-c", INSTALL_SEVERAL, *folders, *map(str, sources[start::2])])
        for start in (0, 1)
    ]
    codes = [process.wait(timeout=120) for process in processes]
    done.set()
    reader.join()
    assert codes == [0, 0]
    # a reader that holds a pack through two further installations finds it gone; it must never read a wrong one
    assert all("is missing" in str(error) for error in problems)
    packs.verify(ID)
    assert len(listing(packs)) == 2 + 2 * 4

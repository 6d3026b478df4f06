from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from KDSegmentatorLib.errors import ManifestError, PackError
from KDSegmentatorLib.packs import files, lock, store
from KDSegmentatorLib.packs.archive import write_archive
from KDSegmentatorLib.packs.pack import verify_pack
from KDSegmentatorLib.packs.store import PackStore

BuildPack = Callable[..., Path]
ID = "hippocampus-x1_4"


@pytest.fixture
def packs(tmp_path: Path) -> PackStore:
    return PackStore(tmp_path / "user ä脑", tmp_path / "shipped")


def ship(packs: PackStore, folder: Path, pack_id: str = ID) -> Path:
    """Put a pack where the packs are that come with KDSegmentator."""
    packs.shipped_folder.mkdir(exist_ok=True)
    return Path(shutil.copytree(folder, packs.shipped_folder / pack_id))


def versions(packs: PackStore) -> list[str]:
    return [pack.manifest.version for pack in packs.packs()]


def listing(packs: PackStore) -> list[str]:
    """Return everything in the user's folder but the lock."""
    found = (path.relative_to(packs.user_folder).as_posix() for path in packs.user_folder.rglob("*"))
    return sorted(name for name in found if name != ".lock")


def test_an_empty_store(packs: PackStore) -> None:
    assert packs.packs() == []
    assert packs.damaged() == []
    assert packs.previous(ID) is None
    assert not packs.is_shipped(ID)
    packs.recover()
    assert not packs.user_folder.exists()
    with pytest.raises(PackError, match="there is no pack 'hippocampus-x1_4'; packs: none"):
        packs.get(ID)


@pytest.mark.parametrize("as_archive", [False, True])
def test_installing_from_a_folder_or_an_archive(
    packs: PackStore, build_pack: BuildPack, tmp_path: Path, as_archive: bool
) -> None:
    source = build_pack(extra={"LICENSE.txt": b"CC"})
    if as_archive:
        write_archive(source, tmp_path / "p.kdpack")
        source = tmp_path / "p.kdpack"
    pack = packs.install(str(source))
    assert pack == packs.get(ID) == packs.verify(ID)
    assert packs.packs() == [pack]
    assert not packs.is_shipped(ID)
    assert pack.folder.is_relative_to(packs.user_folder)
    assert [name.split("/")[-1] for name in listing(packs)] == [
        ID, pack.folder.name, "LICENSE.txt", "body.onnx", "head.npz", "manifest.json", "installed.json",
    ]  # fmt: skip


def test_a_new_version_and_back(packs: PackStore, build_pack: BuildPack) -> None:
    first = packs.install(build_pack())
    with pytest.raises(PackError, match=r"no previous version .* to go back to"):
        packs.roll_back(ID)
    second = packs.install(build_pack(version="1.1.0", seed=1))
    assert versions(packs) == ["1.1.0"]
    verify_pack(first)  # whoever has it open can go on reading it
    assert packs.previous(ID) == first
    assert packs.roll_back(ID) == first
    assert packs.get(ID) == first
    assert packs.roll_back(ID) == second
    third = packs.install(build_pack(version="1.2.0", seed=2))
    assert packs.previous(ID) == second
    assert not first.folder.exists()
    assert packs.get(ID) == third


def test_installing_the_same_again_changes_nothing(packs: PackStore, build_pack: BuildPack) -> None:
    first = packs.install(build_pack())
    before = listing(packs)
    assert packs.install(build_pack()) == first
    assert listing(packs) == before
    assert packs.previous(ID) is None


def test_installing_again_repairs_a_damaged_pack(packs: PackStore, build_pack: BuildPack) -> None:
    first = packs.install(build_pack())
    damaged = packs.install(build_pack(version="1.1.0"))
    (damaged.folder / "body.onnx").write_bytes(bytes(damaged.manifest.files["body.onnx"].size))
    with pytest.raises(PackError, match="is not the file"):
        packs.verify(ID)
    repaired = packs.install(build_pack(version="1.1.0"))
    assert packs.verify(ID) == repaired
    assert packs.previous(ID) == first
    assert not damaged.folder.exists()


def test_an_older_version_is_reported(
    packs: PackStore, build_pack: BuildPack, caplog: pytest.LogCaptureFixture
) -> None:
    ship(packs, build_pack(version="1.10.0"))
    with caplog.at_level(logging.WARNING):
        packs.install(build_pack(version="1.2.0"))
    assert caplog.messages == [f"installing {ID} 1.2.0, which is older than the present 1.10.0"]
    caplog.clear()
    packs.install(build_pack(version="1.1.0"))
    assert len(caplog.messages) == 1
    caplog.clear()
    packs.install(build_pack(version="1.3.0"))
    assert caplog.messages == []


def test_a_users_pack_takes_the_place_of_a_shipped_one(packs: PackStore, build_pack: BuildPack) -> None:
    ship(packs, build_pack())
    assert packs.is_shipped(ID)
    assert versions(packs) == ["1.0.0"]
    with pytest.raises(PackError, match="came with KDSegmentator and cannot be removed"):
        packs.remove(ID)
    packs.install(build_pack(version="2.0.0"))
    assert versions(packs) == ["2.0.0"]
    assert not packs.is_shipped(ID)
    packs.remove(ID)
    assert versions(packs) == ["1.0.0"]
    assert listing(packs) == []


@pytest.mark.parametrize("name", ["nothing-x1", "../shipped", "..", "", "/", "hippocampus-x1_4/../x-x1", "C:\\x-x1"])
def test_names_that_are_no_installed_pack(packs: PackStore, build_pack: BuildPack, name: str) -> None:
    packs.install(build_pack())
    for act in (packs.remove, packs.get, packs.verify, packs.roll_back):
        with pytest.raises(PackError, match="there is no "):
            act(name)
    assert versions(packs) == ["1.0.0"]


def test_a_damaged_pack_hides_no_other(packs: PackStore, build_pack: BuildPack, kit: ModuleType) -> None:
    network = kit.document()["network"]
    healthy = build_pack(id="hippocampus-x1_2", size="x1/2", network={**network, "alpha": 0.5})
    packs.install(healthy)
    ship(packs, build_pack())
    broken = packs.install(build_pack(version="2.0.0"))
    newer = ship(packs, build_pack(id="hippocampus-x1", size="x1", network={**network, "alpha": 1}), "hippocampus-x1")
    kit.rewrite_manifest(newer, lambda manifest: manifest.update(schema_version=9))
    ship(packs, healthy, "wrong-name-x1")
    (broken.folder / "head.npz").unlink()

    assert [pack.manifest.id for pack in packs.packs()] == ["hippocampus-x1_2"]
    found = {entry.id: entry for entry in packs.damaged()}
    assert sorted(found) == ["hippocampus-x1", ID, "wrong-name-x1"]
    assert found["hippocampus-x1"].shipped
    assert isinstance(found["hippocampus-x1"].error, ManifestError)
    assert not found[ID].shipped
    assert "head.npz is missing" in str(found[ID].error)
    assert "instead of 'wrong-name-x1'" in str(found["wrong-name-x1"].error)
    with pytest.raises(PackError, match=r"head\.npz is missing"):
        packs.get(ID)  # not the shipped version instead, silently
    packs.remove(ID)
    assert packs.get(ID).manifest.version == "1.0.0"


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"current": null, "previous": null}', '{"current": "../../other", "previous": null}',
        '{"current": "1.0.0-0123456789ab", "previous": "/etc"}', '{"current": 5, "previous": null}', "[" * 990,
    ],
)  # fmt: skip
def test_a_damaged_list_of_versions(packs: PackStore, build_pack: BuildPack, content: str) -> None:
    packs.install(build_pack())
    (packs.user_folder / ID / "installed.json").write_text(content)
    assert packs.packs() == []
    assert "installed.json is damaged; install the pack" in str(packs.damaged()[0].error)
    assert not packs.is_shipped(ID)
    with pytest.raises(PackError, match="is damaged"):
        packs.roll_back(ID)
    packs.install(build_pack())
    assert packs.verify(ID)
    assert len(list((packs.user_folder / ID).iterdir())) == 2
    (packs.user_folder / ID / "installed.json").write_text(content)
    packs.remove(ID)
    assert listing(packs) == []


def test_a_pack_copied_by_hand_is_not_used_and_not_deleted(packs: PackStore, build_pack: BuildPack) -> None:
    source = build_pack()
    packs.user_folder.mkdir()
    by_hand = Path(shutil.copytree(source, packs.user_folder / ID))
    assert packs.packs() == []
    assert "was copied here by hand" in str(packs.damaged()[0].error)
    with pytest.raises(PackError, match="was copied here by hand"):
        packs.install(source)
    assert (by_hand / "body.onnx").exists()
    packs.remove(ID)
    packs.install(source)


def test_strange_things_in_the_folders_are_ignored(packs: PackStore, build_pack: BuildPack) -> None:
    pack = packs.install(build_pack())
    for folder in (packs.user_folder, packs.shipped_folder):
        (folder / ".hidden").mkdir(parents=True)
        (folder / "note.txt").write_text("x")
    (packs.user_folder / "My own folder").mkdir()
    (packs.user_folder / "My own folder" / "1.0.0-0123456789ab").mkdir()
    packs.recover()
    assert packs.packs() == [pack]
    assert packs.damaged() == []
    assert (packs.user_folder / "My own folder" / "1.0.0-0123456789ab").is_dir()


def damaged_sources(kit: ModuleType, build_pack: BuildPack, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    yield tmp_path / "nothing.kdpack", "does not exist"
    not_a_zip = tmp_path / "n.kdpack"
    not_a_zip.write_bytes(b"hello")
    yield not_a_zip, "is not a .kdpack file"
    yield tmp_path, "manifest.json is missing"
    changed = build_pack(version="3.0.0")
    (changed / "body.onnx").write_bytes((changed / "body.onnx").read_bytes()[:-1] + b"!")
    yield changed, "is not the file that the manifest lists"
    archived = tmp_path / "changed.kdpack"
    write_archive(build_pack(version="3.0.0"), archived)
    content = bytearray(archived.read_bytes())
    content[content.index(b"weight") + 40] ^= 1
    archived.write_bytes(content)
    yield archived, "is damaged|is not the file"
    newer = build_pack(version="3.0.0")
    kit.rewrite_manifest(newer, lambda manifest: manifest.update(schema_version=2))
    yield newer, "update KDSegmentator"
    external = build_pack(version="3.0.0", body=kit.onnx_model(kit.message(5, kit.message(13, b""))))
    yield external, "outside the file"
    unlisted = build_pack(version="3.0.0")
    (unlisted / "setup.py").write_text("")
    yield unlisted, "not listed"


def test_a_damaged_pack_is_not_installed(
    packs: PackStore, build_pack: BuildPack, tmp_path: Path, kit: ModuleType
) -> None:
    installed = packs.install(build_pack())
    before = listing(packs)
    for source, message in damaged_sources(kit, build_pack, tmp_path):
        with pytest.raises((PackError, ManifestError), match=message) as caught:
            packs.install(source)
        assert ".staging-" not in str(caught.value), "that folder is gone"
        assert listing(packs) == before
        assert packs.verify(ID) == installed


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
        restarted.recover()
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


def test_a_busy_store_says_so(packs: PackStore, build_pack: BuildPack, monkeypatch: pytest.MonkeyPatch) -> None:
    packs.install(build_pack())
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    with lock.locked(packs.user_folder / ".lock", 0):
        for act in (lambda: packs.install(build_pack(version="2.0.0")), lambda: packs.remove(ID), packs.recover):
            with pytest.raises(PackError, match="another process is changing the packs"):
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

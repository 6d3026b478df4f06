from __future__ import annotations

import errno
import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs import pack_archive as archive_module
from KDSegmentatorLib.packs.pack import open_pack, verify_pack
from KDSegmentatorLib.packs.pack_archive import extract_archive, write_archive, write_error

BuildPack = Callable[..., Path]


@pytest.fixture
def kdpack(build_pack: BuildPack, tmp_path: Path) -> Path:
    write_archive(build_pack(), tmp_path / "intact.kdpack")
    return tmp_path / "intact.kdpack"


def zip_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip as an attacker would: any names, any order."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("manifest.json", b"{}")
        for name, content in entries:
            archive.writestr(name, content)
    return path


def raw_name(name: str) -> zipfile.ZipInfo:
    """Return an entry whose name zipfile does not tidy up."""
    entry = zipfile.ZipInfo("x")
    entry.filename = name
    return entry


def refused(path: Path, into: Path, message: str) -> None:
    before = sorted(into.parent.rglob("*"))
    with pytest.raises(PackError, match=message):
        extract_archive(path, into)
    assert sorted(into.parent.rglob("*")) == before


def test_there_and_back(build_pack: BuildPack, tmp_path: Path) -> None:
    folder = build_pack(extra={"LICENSE.txt": b"CC"})
    target = tmp_path / "пакет 脑.kdpack"
    write_archive(folder, target)
    into = tmp_path / "größer"
    extract_archive(str(target), into)
    verify_pack(open_pack(into))
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_pack_gives_the_same_bytes(build_pack: BuildPack, tmp_path: Path) -> None:
    for n in (1, 2):
        write_archive(build_pack(), tmp_path / f"{n}.kdpack")
    assert (tmp_path / "1.kdpack").read_bytes() == (tmp_path / "2.kdpack").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.kdpack") as archive:
        assert archive.namelist() == ["manifest.json", "body.onnx", "head.npz"]


def test_a_zip_made_by_another_program_is_fine(build_pack: BuildPack, tmp_path: Path) -> None:
    folder = build_pack()
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    extract_archive(tmp_path / "p.zip", tmp_path / "out")
    verify_pack(open_pack(tmp_path / "out"))


def test_a_damaged_pack_is_not_archived(build_pack: BuildPack, tmp_path: Path) -> None:
    folder = build_pack()
    (folder / "more.txt").write_text("x")
    target = tmp_path / "p.kdpack"
    target.write_bytes(b"old")
    with pytest.raises(PackError, match="not listed"):
        write_archive(folder, target)
    assert target.read_bytes() == b"old"
    (folder / "more.txt").unlink()
    with pytest.raises(PackError, match="in the pack's own folder"):
        write_archive(folder, folder / "p.kdpack")
    with pytest.raises(PackError, match="could not be written"):
        write_archive(folder, tmp_path / "nowhere" / "p.kdpack")
    write_archive(folder, target)
    assert zipfile.is_zipfile(target)


def test_a_full_disk_leaves_no_archive(build_pack: BuildPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build_pack()
    into = tmp_path / "out"
    into.mkdir()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(PackError, match=r"the disk is full: .*; free some space"):
        write_archive(folder, into / "p.kdpack")
    assert list(into.iterdir()) == []


def test_a_full_disk_leaves_no_folder(kdpack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    class Full(io.FileIO):
        def write(self, _: Any, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        return (
            Full(str(self), "x") if mode == "xb" and self.name == "head.npz" else opened(self, mode, *rest, **options)
        )

    monkeypatch.setattr(Path, "open", open_full)
    refused(kdpack, tmp_path / "out", "the disk is full")


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt", "../../evil.txt", "/etc/evil.txt", "C:\\evil.txt", "C:/evil.txt", "C:evil.txt", "..\\evil.txt",
        "\\\\server\\share\\evil.txt", "a/b.txt", "./a.txt", "a/", "", ".", "..", "a.txt:stream.txt", "NUL.txt",
        "con.txt", "run.py", "a.txt\x00.py", "a\n.txt", "a.txt.", "a.txt ", "ä.txt",
    ],
)  # fmt: skip
def test_names_that_could_escape(tmp_path: Path, name: str) -> None:
    refused(zip_of(tmp_path / "p.kdpack", (raw_name(name), b"x")), tmp_path / "out", "unsafe entry|is not a .kdpack")


def test_links_and_devices(tmp_path: Path) -> None:
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR):
        entry = zipfile.ZipInfo("a.txt")
        entry.create_system = 3
        entry.external_attr = (kind | 0o777) << 16
        path = zip_of(tmp_path / "p.kdpack", (entry, b"/etc/passwd"))
        refused(path, tmp_path / "out", "not a regular file but a link or a device")


def test_entries_that_occur_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zip_of(tmp_path / "p.kdpack", ("a.txt", b"1"), ("a.txt", b"2"))
    refused(path, tmp_path / "out", r"has the entry 'a\.txt' twice")
    path = zip_of(tmp_path / "p.kdpack", ("a.txt", b"1"), ("A.txt", b"2"))
    refused(path, tmp_path / "out", r"has the entry 'A\.txt' twice")
    path = zip_of(tmp_path / "p.kdpack", ("Manifest.json", b"2"))
    refused(path, tmp_path / "out", r"has the entry 'Manifest\.json' twice")


def test_a_pack_inside_a_folder_or_none_at_all(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.kdpack", "w") as archive:
        archive.writestr("body.onnx", b"")
    refused(tmp_path / "p.kdpack", tmp_path / "out", r"no manifest\.json at its top")


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(tmp_path / "p.kdpack", ("a.txt", bytes(8 << 20)))
    refused(path, tmp_path / "out", "expands more than 100-fold, as a zip bomb does")
    monkeypatch.setattr(archive_module, "MAXIMUM_FILE_BYTES", 1000)
    refused(zip_of(path, ("a.txt", bytes(1001))), tmp_path / "out", r"a\.txt has 1,001 bytes, more than 1,000")
    monkeypatch.setattr(archive_module, "MAXIMUM_MANIFEST_BYTES", 1)
    refused(zip_of(path), tmp_path / "out", r"manifest\.json has 2 bytes, more than 1")
    monkeypatch.setattr(archive_module, "MAXIMUM_MANIFEST_BYTES", 2)
    monkeypatch.setattr(archive_module, "MAXIMUM_PACK_BYTES", 1500)
    path = zip_of(path, ("a.txt", bytes(900)), ("b.txt", bytes(900)))
    refused(path, tmp_path / "out", "would unpack to 1,802 bytes, more than 1,500")
    many = zip_of(path, *((f"{n}.txt", b"") for n in range(33)))
    refused(many, tmp_path / "out", "has 34 entries, more than 33")


def test_a_table_of_contents_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "CHUNK_BYTES", 4000)
    path = zip_of(tmp_path / "p.kdpack", *((f"{n:06}.txt", b"") for n in range(100)), method=zipfile.ZIP_STORED)
    refused(path, tmp_path / "out", "table of contents is too large")


def patched(path: Path, change: Callable[[bytearray, int, int], None]) -> Path:
    """Change the zip's bytes, given where its last entry's local and central headers start."""
    content = bytearray(path.read_bytes())
    change(content, content.rindex(b"PK\x03\x04"), content.rindex(b"PK\x01\x02"))
    path.write_bytes(content)
    return path


def test_headers_that_lie(tmp_path: Path) -> None:
    def says(size: int) -> Callable[[bytearray, int, int], None]:
        def change(content: bytearray, local: int, central: int) -> None:
            struct.pack_into("<I", content, local + 22, size)
            struct.pack_into("<I", content, central + 24, size)

        return change

    for size in (10, 999, 1001, 5000):
        path = zip_of(tmp_path / "p.kdpack", ("a.txt", bytes(1000)))
        refused(patched(path, says(size)), tmp_path / "out", "is damaged|shorter than it says|longer than it says")

    def other_name(content: bytearray, local: int, _: int) -> None:
        content[local + 30 : local + 35] = b"b.txt"

    path = patched(zip_of(tmp_path / "p.kdpack", ("a.txt", b"x")), other_name)
    refused(path, tmp_path / "out", "is damaged")


def test_encrypted_and_exotic_entries(tmp_path: Path) -> None:
    def encrypted(content: bytearray, local: int, central: int) -> None:
        content[local + 6] |= 1
        content[central + 8] |= 1

    path = patched(zip_of(tmp_path / "p.kdpack", ("a.txt", b"x")), encrypted)
    refused(path, tmp_path / "out", r"a\.txt is encrypted")
    path = zip_of(tmp_path / "p.kdpack", ("a.txt", b"x" * 100), method=zipfile.ZIP_LZMA)
    refused(path, tmp_path / "out", "unusual compression")


def test_what_is_no_archive(kdpack: Path, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="cannot be read"):
        extract_archive(tmp_path / "nothing.kdpack", tmp_path / "out")
    empty = tmp_path / "empty.kdpack"
    empty.write_bytes(b"")
    refused(empty, tmp_path / "out", r"is not a \.kdpack file, or it is incomplete")
    content = kdpack.read_bytes()
    for length in (10, len(content) // 2, len(content) - 1):
        kdpack.write_bytes(content[:length])
        refused(kdpack, tmp_path / "out", r"is not a \.kdpack file, or it is incomplete")
    (tmp_path / "there").mkdir()
    kdpack.write_bytes(content)
    refused(kdpack, tmp_path / "there", "could not be written")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_archives_are_refused_or_unpack_inside(kdpack: Path, data: st.DataObject) -> None:
    content = bytearray(kdpack.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        # headers are where it hurts: the first entry's and the table of contents
        position = data.draw(st.integers(0, 60) | st.integers(len(content) - 260, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    damaged = kdpack.with_name("damaged.kdpack")
    damaged.write_bytes(content)
    into = kdpack.with_name("out")
    before = sorted(kdpack.parent.iterdir())
    try:
        extract_archive(damaged, into)
    except PackError:
        assert sorted(kdpack.parent.iterdir()) == before
        return
    assert sorted(kdpack.parent.iterdir()) == sorted([*before, into])
    for path in into.iterdir():
        path.unlink()
    into.rmdir()


def test_every_write_error_has_a_remedy(tmp_path: Path) -> None:
    assert "the disk is full" in str(write_error(tmp_path, OSError(errno.ENOSPC, "x")))
    windows = OSError(errno.EINVAL, "x")
    windows.winerror = 112  # type: ignore[attr-defined, unused-ignore]
    assert "the disk is full" in str(write_error(tmp_path, windows))
    for number in (errno.EACCES, errno.EROFS):
        assert "KDSEGMENTATOR_PACKS" in str(write_error(tmp_path, OSError(number, "x")))
    assert "check the disk" in str(write_error(tmp_path, OSError(errno.EIO, "x")))

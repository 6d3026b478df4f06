from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from KDSegmentatorLib.dicom.archive import extracted
from KDSegmentatorLib.errors import ImageReadError


def test_nothing_is_written_outside_and_links_are_left_out(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("../outside", b"1")
        content.writestr("/etc/absolute", b"2")
        content.writestr(link, "/etc/passwd")
    with extracted(archive) as files:
        assert {name: path.read_bytes() for name, path in files.items()} == {"../outside": b"1", "/etc/absolute": b"2"}
        folder = next(iter(files.values())).parent
        assert all(path.parent == folder for path in files.values())
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == [archive]


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("zeros", bytes(80 << 20))
    with pytest.raises(ImageReadError, match=r"would unpack to 83,886,080, as a zip bomb does"), extracted(archive):
        pass


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "lie.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("zeros", bytes(100_000))
    raw = bytearray(archive.read_bytes())
    at = raw.index(b"PK\1\2") + 24
    raw[at : at + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(raw)
    with pytest.raises(ImageReadError, match=r"damaged|longer than the archive says"), extracted(archive):
        pass


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4 and no more"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(content)
    with pytest.raises(ImageReadError, match="the archive is damaged"), extracted(archive):
        pass


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("a", b"1")
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(raw)
    with pytest.raises(ImageReadError, match="a needs a password"), extracted(archive):
        pass

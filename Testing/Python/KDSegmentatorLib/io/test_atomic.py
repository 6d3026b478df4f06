from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import CancelledError, ImageWriteError
from KDSegmentatorLib.io.files import atomic_output, check_output


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with atomic_output(target) as temporary:
        temporary.write_text("a,b\n")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        assert not target.exists()
    assert target.read_text() == "a,b\n"
    assert names(tmp_path) == ["out.csv"]


@pytest.mark.parametrize(
    ("name", "suffix"), [("a b.nii.gz", ".nii.gz"), ("scan.1.5mm.NII.GZ", ".nii.gz"), ("x.v1.png", ".png"), ("x", "")]
)
def test_the_temporary_keeps_the_suffix(tmp_path: Path, name: str, suffix: str) -> None:
    with atomic_output(tmp_path / name) as temporary:
        assert "".join(temporary.suffixes) == suffix


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")
    with pytest.raises(CancelledError), atomic_output(target) as temporary:
        temporary.write_text("half")
        raise CancelledError("cancelled")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["out.csv"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_output(tmp_path / "out.csv"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "check the disk")])
def test_an_operating_system_error_is_named(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(ImageWriteError, match=message), atomic_output(tmp_path / "out.csv"):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageWriteError, match=r"no folder .*missing; create it"):
        check_output(tmp_path / "missing" / "out.csv")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(ImageWriteError, match="it is a folder"):
        check_output(tmp_path / "out.csv")


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege on Windows")
def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "real" / "out.csv")
    with atomic_output(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "real" / "out.csv").read_text() == "new"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE is the disk that fills up")
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from pathlib import Path
        from KDSegmentatorLib.errors import ImageWriteError
        from KDSegmentatorLib.io.files import atomic_output
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with atomic_output(Path(sys.argv[1])) as temporary:
                temporary.write_bytes(bytes(5000))
        except ImageWriteError as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "out.csv"], capture_output=True, text=True, check=True
    )
    assert "the disk is full" in run.stdout
    assert names(tmp_path) == []

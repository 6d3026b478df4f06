"""Real pip on an index that is a folder of tiny wheels: no network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from KDSegmentatorLib.cli import wheelhouse
from KDSegmentatorLib.cli.wheelhouse import CHECKSUMS, TARGETS, wanted

WHEELS = (
    "msgspec-0.23.0-py3-none-any.whl",
    "psutil-7.2.2-py3-none-any.whl",
    "filelock-4.3.1-py3-none-any.whl",
    "platformdirs-4.14.9-py3-none-any.whl",
    "onnxruntime-1.23.2-cp312-cp312-macosx_13_0_x86_64.whl",
    "onnxruntime-1.31.1-cp312-cp312-macosx_14_0_arm64.whl",
    "onnxruntime-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl",
    "onnxruntime-1.31.1-cp312-cp312-win_amd64.whl",
    "onnxruntime-1.31.1-cp313-cp313-win_amd64.whl",
    "openvino-2026.4.1-cp312-cp312-macosx_12_0_arm64.whl",
    "openvino-2026.4.1-cp312-cp312-manylinux_2_27_x86_64.whl",
    "openvino-2026.4.1-cp312-cp312-win_amd64.whl",
    "needed-2.0-py3-none-any.whl",
)


def write_wheel(path: Path) -> None:
    """Write a wheel without code; engines need the package ``needed``."""
    name, version, *tags = path.stem.split("-")
    with zipfile.ZipFile(path, "w") as wheel:
        folder = f"{name}-{version}.dist-info"
        requires = "Requires-Dist: needed>=1\n" if name in ("onnxruntime", "openvino") else ""
        wheel.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        wheel.writestr(f"{folder}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {'-'.join(tags)}\n")
        wheel.writestr(f"{folder}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that pip finds wheels in, and nothing else."""
    folder = tmp_path / "index é"
    folder.mkdir()
    for name in WHEELS:
        write_wheel(folder / name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64"]),
        ("windows", ["win_amd64", "win_amd64"]),
        ("macos-arm64", ["macosx_14_0_arm64", "macosx_12_0_arm64"]),
        ("macos-x86_64", ["macosx_13_0_x86_64"]),
    ],
)
def test_the_wheels_of_a_platform(kdseg: Any, index: Path, tmp_path: Path, platform: str, expected: list[str]) -> None:
    folder = tmp_path / "wheels for ö"
    code, out, err = kdseg("wheelhouse", folder, "--platform", platform)
    assert (code, err) == (0, "")
    assert f"{len(expected) + 5} wheels" in out
    engines = [name for name in names(folder) if name.startswith("o")]
    assert [name.removesuffix(".whl").split("-")[-1] for name in engines] == expected
    assert all("cp312" in name for name in engines)
    assert {each.partition("-")[0] for each in names(folder)} >= {"needed", "msgspec", "psutil"}


def test_hashes_can_be_checked(kdseg: Any, index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    assert kdseg("wheelhouse", folder, "--platform", "windows")[0] == 0
    assert kdseg("wheelhouse", folder, "--platform", "linux")[0] == 0  # into the same folder
    lines = [line.split("  ") for line in (folder / CHECKSUMS).read_text().splitlines()]
    assert [name for _, name in lines] == [name for name in names(folder) if name.endswith(".whl")]
    assert len(lines) == 9
    for digest, name in lines:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_another_python(kdseg: Any, index: Path, tmp_path: Path) -> None:
    """There is no openvino for it: nothing is written, and the message says what pip said."""
    folder = tmp_path / "wheels"
    code, _, err = kdseg("wheelhouse", folder, "--platform", "windows", "--python", "3.13")
    assert code == 1
    assert "openvino" in err
    assert "--python" in err
    assert not folder.exists()
    assert not list(tmp_path.glob(".kdseg-*"))


def test_what_is_there_stays_if_pip_fails(kdseg: Any, index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    kdseg("wheelhouse", folder, "--platform", "windows")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for wheel in index.glob("openvino-*"):
        wheel.unlink()
    assert kdseg("wheelhouse", folder, "--platform", "linux")[0] == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_folder_may_be_a_disk_of_its_own(
    kdseg: Any, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is put beside it, from where it could not be moved."""
    folder = tmp_path / "stick"
    folder.mkdir()
    seen = []
    pip_download = wheelhouse._pip_download

    def watched(requirements: Any, unfinished: Path, *rest: Any) -> None:
        seen.append(unfinished.parent)
        pip_download(requirements, unfinished, *rest)

    monkeypatch.setattr(wheelhouse, "_pip_download", watched)
    assert kdseg("wheelhouse", folder, "--platform", "linux")[0] == 0
    assert seen == [folder]
    assert not list(folder.glob(".kdseg-*"))


def test_a_folder_that_cannot_be_written_is_said_before_the_download(
    kdseg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(wheelhouse.tempfile, "TemporaryDirectory", read_only)
    monkeypatch.setattr(wheelhouse, "_pip_download", lambda *_: pytest.fail("downloaded"))
    code, _, err = kdseg("wheelhouse", tmp_path / "wheels", "--platform", "linux")
    assert code == 1
    assert "cannot be put into" in err
    assert "Permission denied" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["file.txt", "--platform", "linux"], "is a file"),
        (["no/where", "--platform", "linux"], "there is no folder"),
        (["wheels"], "--platform"),
        (["wheels", "--platform", "solaris"], "invalid choice"),
        (["wheels", "--platform", "linux", "--python", "2.7"], "must be a version such as 3.12"),
    ],
)
def test_bad_usage(
    kdseg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    code, _, err = kdseg("wheelhouse", *arguments)
    assert code == 2
    assert reason in err


def test_the_same_packages_as_the_module_installs() -> None:
    every = ["msgspec", "psutil", "filelock", "platformdirs", "onnxruntime"]
    assert [each.partition(">=")[0] for each in wanted(TARGETS["linux"])] == [*every, "openvino"]
    assert [each.partition(">=")[0] for each in wanted(TARGETS["macos-x86_64"])] == every

"""``kdseg wheelhouse``: what the module needs as a folder of wheels, for a 3D Slicer without internet."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from KDSegmentatorLib.errors import InvalidSettingsError, WheelhouseError
from KDSegmentatorLib.io.files import file_sha256, replace, replacing

REQUIREMENTS = Path(__file__).resolve().parents[1] / "slicer-requirements.txt"
"""What the Slicer module installs."""

CHECKSUMS = "SHA256SUMS"
"""File with the wheels' hashes, as ``sha256sum --check`` reads it."""

_PIP_LINES = 3

_USE = """\
Copy the folder to the other computer, give it under “Wheels from” in the KDSegmentator module of 3D Slicer, and click
Install packages. Or: PythonSlicer -m pip install --no-index --find-links FOLDER msgspec psutil filelock \
platformdirs onnxruntime openvino"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A machine that wheels are for.

    Attributes:
        tags: platform tags of wheels that run there, best first.
        sys_platform: Python's name of the system, as ``machine`` for the markers of requirements.
        machine: Python's name of the processor.
    """

    tags: tuple[str, ...]
    sys_platform: str
    machine: str


# 3D Slicer needs glibc 2.28 and macOS 13; onnxruntime's wheels for Macs need macOS 14. cli.main names them for --help.
TARGETS = {
    "linux": Target(
        tags=(*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)), "manylinux2014_x86_64"),
        sys_platform="linux",
        machine="x86_64",
    ),
    "windows": Target(tags=("win_amd64",), sys_platform="win32", machine="AMD64"),
    "macos-arm64": Target(tags=("macosx_14_0_arm64",), sys_platform="darwin", machine="arm64"),
    "macos-x86_64": Target(tags=("macosx_13_0_x86_64",), sys_platform="darwin", machine="x86_64"),
}


def run(arguments: argparse.Namespace) -> None:
    """Download the wheels and say how they are used.

    Raises:
        InvalidSettingsError: the folder is a file, or the Python version is none.
        WheelhouseError: pip is missing or failed; nothing was added to the folder.
    """
    folder = arguments.folder
    wheels = download(folder, TARGETS[arguments.platform], arguments.python)
    size = sum(wheel.stat().st_size for wheel in wheels)
    what = f"{arguments.platform} and Python {arguments.python}"
    print(f"{len(wheels)} wheels, {size / 1e6:.0f} MB, for {what}: {folder}")
    print(_USE)


def download(folder: Path, target: Target, python: str) -> list[Path]:
    """Put the wheels of what the module installs, and of what that needs, into a folder; see :func:`run`.

    Wheels of other machines that are there already stay: one folder can serve several.

    Args:
        folder: is made if there is none; its parent must exist.
        target: the machine.
        python: version of Slicer's Python, for example ``3.12``.

    Returns:
        The wheels that were added or were there already under the same name.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidSettingsError(f"{folder} is a file; give a folder for the wheels")
    if not folder.absolute().parent.is_dir():
        raise InvalidSettingsError(f"there is no folder {folder.absolute().parent}; create it first")
    if find_spec("pip") is None:
        raise WheelhouseError("this Python has no pip, which downloads the wheels; run: python -m ensurepip")
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        # inside, because the folder may be a memory stick of its own; and before the download, should it be read-only
        unfinished = tempfile.TemporaryDirectory(prefix=".kdseg-wheels-", dir=folder)
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        with unfinished as name:
            _pip_download(wanted(target), Path(name), target, python)
            return _take(Path(name), folder)
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()  # only if nothing is in it
        raise


def wanted(target: Target) -> list[str]:
    """Return the requirements that hold for a machine, as pip takes them."""
    environment = {"sys_platform": target.sys_platform, "platform_machine": target.machine}
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return [
        f"{each.name}{each.specifier}"
        for each in requirements
        if each.marker is None or each.marker.evaluate(environment)
    ]


def _pip_download(requirements: list[str], folder: Path, target: Target, python: str) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(folder),
        "--only-binary", ":all:", "--implementation", "cp", "--python-version", python,
    ]  # fmt: skip
    for tag in target.tags:
        command += ["--platform", tag]
    done = subprocess.run(  # noqa: S603 - pip, no shell
        [*command, *requirements], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = " ".join(lines[-_PIP_LINES:]) or f"code {done.returncode}"
        raise WheelhouseError(
            f"pip could not download the wheels ({said}); it needs the package index: check the internet connection, "
            "the proxy (HTTPS_PROXY) and --python"
        )


def _take(source: Path, folder: Path) -> list[Path]:
    """Move complete wheels into the folder, and write the hashes of all that are there."""
    try:
        wheels = []
        for wheel in sorted(source.glob("*.whl")):
            replace(wheel, folder / wheel.name)
            wheels.append(folder / wheel.name)
        lines = [f"{file_sha256(wheel)}  {wheel.name}\n" for wheel in sorted(folder.glob("*.whl"))]
        with replacing(folder / CHECKSUMS) as unfinished:
            unfinished.write_text("".join(lines), encoding="utf-8", newline="\n")
    except OSError as error:
        raise _not_writable(folder, error) from error
    return wheels


def _not_writable(folder: Path, error: OSError) -> WheelhouseError:
    return WheelhouseError(
        f"the wheels cannot be put into {folder} ({error.strerror or error}); give a folder that can be written, with "
        "about 150 MB of free space"
    )

"""Installing what the library needs, with slicer.packaging (which slicer-core lacks) put in its place."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from subprocess import CalledProcessError
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer

from KDSegmentatorPanel.slicer_packages import InstallationError, SlicerPackages

REQUIREMENTS = """\
# requests and results, then engines
msgspec>=0.19
psutil>=5.9
onnxruntime>=1.23
openvino>=2025.4; sys_platform != 'vms'
other>=1; sys_platform == 'vms'
"""
BOUNDS = ("msgspec>=0.19", "psutil>=5.9", "onnxruntime>=1.23", "openvino>=2025.4")
NAMES = ("msgspec", "psutil", "onnxruntime", "openvino")


class Packaging(ModuleType):
    """``slicer.packaging``: pip installs the packages, or raises what it is told to."""

    def __init__(self) -> None:
        super().__init__("slicer.packaging")
        self.installed: set[str] = set()
        self.calls: list[tuple[str, Any]] = []
        self.error: Exception | None = None
        self.works = True

    def pip_ensure(self, requirements: list[Any], *, requester: str) -> None:
        assert requester == "KDSegmentator"
        self._install("pip_ensure", [each.name for each in requirements])

    def pip_install(self, arguments: list[str], *, requester: str) -> None:
        assert requester == "KDSegmentator"
        self._install("pip_install", arguments)

    def _install(self, how: str, what: list[str]) -> None:
        self.calls.append((how, what))
        if self.error is not None:
            raise self.error
        if self.works:
            self.installed |= set(NAMES)


class Application:
    """``slicer.app`` and what of ``slicer.util`` asks the user: says no to what it is told to."""

    def __init__(self) -> None:
        self.testing = False
        self.declines = False
        self.questions: list[str] = []
        self.restarts = 0

    def testingEnabled(self) -> bool:  # noqa: N802 - Slicer's name
        return self.testing

    def ask(self, question: str, _title: str, **_options: Any) -> bool:
        self.questions.append(question)
        return not self.declines

    def restart(self) -> None:
        self.restarts += 1


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Application:
    found = Application()
    monkeypatch.setattr(slicer, "app", found, raising=False)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", found.ask, raising=False)
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", found.ask, raising=False)
    monkeypatch.setattr(slicer.util, "restart", found.restart, raising=False)
    return found


@pytest.fixture
def packaging(monkeypatch: pytest.MonkeyPatch) -> Packaging:
    found = Packaging()
    monkeypatch.setitem(sys.modules, "slicer.packaging", found)
    monkeypatch.setattr(slicer, "packaging", found, raising=False)
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        if name in NAMES:
            return real("json") if name in found.installed else None
        return real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return found


@pytest.fixture
def packages(packaging: Packaging, tmp_path: Path) -> SlicerPackages:
    path = tmp_path / "requirements.txt"
    path.write_text(REQUIREMENTS)
    return SlicerPackages(path)


def test_what_is_missing(packaging: Packaging, packages: SlicerPackages) -> None:
    assert packages.missing() == NAMES
    packaging.installed = {"onnxruntime", "openvino"}
    assert packages.missing() == ("msgspec", "psutil")
    packaging.installed = {"msgspec", "openvino"}
    assert packages.missing() == ("psutil",), "one engine is enough"
    packaging.installed |= {"psutil"}
    assert packages.missing() == ()
    assert not packaging.calls


def test_from_the_index(packaging: Packaging, packages: SlicerPackages) -> None:
    packages.install(None)
    assert packaging.calls == [("pip_ensure", list(NAMES))]
    assert packages.missing() == ()


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels é"
    folder.mkdir()
    (folder / "onnxruntime-1.31.1-cp312-cp312-win_amd64.whl").touch()
    return folder


def test_from_a_folder(packaging: Packaging, packages: SlicerPackages, application: Application, wheels: Path) -> None:
    packages.install(wheels)
    expected = ["--no-index", "--find-links", str(wheels), *BOUNDS]
    assert packaging.calls == [("pip_install", expected)]
    assert len(application.questions) == 1
    assert str(wheels) in application.questions[0]
    assert application.restarts == 0, "nothing was replaced"


def test_a_folder_is_asked_for_too(
    packaging: Packaging, packages: SlicerPackages, application: Application, wheels: Path
) -> None:
    application.declines = True
    with pytest.raises(InstallationError, match=r"were not installed .*declined"):
        packages.install(wheels)
    assert not packaging.calls


def test_nothing_is_installed_while_slicer_is_tested(
    packaging: Packaging, packages: SlicerPackages, application: Application, wheels: Path
) -> None:
    application.testing = True
    with pytest.raises(InstallationError, match="still missing"):
        packages.install(wheels)
    assert not packaging.calls


def test_a_restart_is_offered_if_packages_were_replaced(
    packaging: Packaging,
    packages: SlicerPackages,
    application: Application,
    wheels: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A real distribution on the path becomes another version."""
    site = tmp_path / "site"

    def put(version: str) -> None:
        shutil.rmtree(site, ignore_errors=True)
        info = site / f"kdseg_numbers-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kdseg-numbers\nVersion: {version}\n")

    put("1.0")
    monkeypatch.syspath_prepend(str(site))
    install = packaging.pip_install
    monkeypatch.setattr(packaging, "pip_install", lambda *each, **options: (put("2.0"), install(*each, **options)))
    packages.install(wheels)
    assert "kdseg-numbers" in application.questions[-1]
    assert application.restarts == 1


def test_a_folder_without_wheels(packaging: Packaging, packages: SlicerPackages, tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match=r"holds no wheels .*kdseg wheelhouse"):
        packages.install(tmp_path)
    assert not packaging.calls


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("User declined package installation"), "were not installed .*declined"),
        (CalledProcessError(1, "pip"), "could not be installed .*code 1"),
    ],
)
def test_failures(packaging: Packaging, packages: SlicerPackages, error: Exception, message: str) -> None:
    packaging.error = error
    with pytest.raises(InstallationError, match=message):
        packages.install(None)


def test_packages_that_are_still_not_there(packaging: Packaging, packages: SlicerPackages) -> None:
    """In testing mode, slicer.packaging installs nothing and says nothing."""
    packaging.works = False
    with pytest.raises(InstallationError, match="still missing"):
        packages.install(None)

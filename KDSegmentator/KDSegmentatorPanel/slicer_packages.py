"""The library's packages in Slicer's Python; nothing here needs one of them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError
from typing import TYPE_CHECKING

import KDSegmentatorLib
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorPanel.translation import tr as _

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_ENGINES = {"onnxruntime", "openvino"}
"""One of these modules is enough to run a pack."""

_REQUIREMENTS = Path(KDSegmentatorLib.__file__).parent / "slicer-requirements.txt"


class InstallationError(KDSegmentatorError):
    """The packages could not be installed, or the user declined."""


class SlicerPackages:
    """Installs what the library needs through ``slicer.packaging``.

    Args:
        requirements: file that lists it; of packages whose modules have the same names.
    """

    def __init__(self, requirements: Path = _REQUIREMENTS) -> None:
        self._requirements = requirements

    def missing(self) -> tuple[str, ...]:
        """Return what has to be installed before anything can run; empty if all is there, of the engines one."""
        names = [requirement.name for requirement in self._wanted()]
        found = {name for name in names if importlib.util.find_spec(name) is not None}
        if found & _ENGINES:
            found |= _ENGINES
        return tuple(name for name in names if name not in found)

    def install(self, wheel_folder: Path | None) -> None:
        """Install them; blocks, with Slicer's own dialog.

        Args:
            wheel_folder: with wheels, for machines without internet; None for the package index.

        Raises:
            InstallationError: it did not work, or the user declined.
        """
        import slicer.packaging

        wanted = self._wanted()
        try:
            if wheel_folder is None:
                slicer.packaging.pip_ensure(wanted, requester="KDSegmentator")
            elif not any(wheel_folder.glob("*.whl")):
                raise InstallationError(
                    _(
                        "{folder} holds no wheels (*.whl); make them with 'kdseg wheelhouse' on a machine with internet"
                    ).format(folder=wheel_folder)
                )
            else:
                _install_from(wheel_folder, wanted)
        except CalledProcessError as error:
            raise InstallationError(
                _(
                    "the packages could not be installed (pip ended with code {code}); its messages are in the Python "
                    "console"
                ).format(code=error.returncode)
            ) from error
        except RuntimeError as error:  # the user declined, or another installation is at work
            raise InstallationError(
                _("the packages were not installed ({reason}); they are needed to segment").format(reason=error)
            ) from error
        importlib.invalidate_caches()
        if self.missing():
            raise InstallationError(_("the packages are still missing; restart Slicer and try again"))

    def _wanted(self) -> list[Requirement]:
        """Return the requirements that hold for this machine."""
        from packaging.requirements import Requirement

        lines = self._requirements.read_text(encoding="utf-8").splitlines()
        listed = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
        return [each for each in listed if each.marker is None or each.marker.evaluate()]


def _install_from(wheel_folder: Path, wanted: Sequence[Requirement]) -> None:
    """Install from wheels only: asked for, not done while Slicer is tested, and with the offer to restart.

    That is what ``slicer.packaging.pip_ensure`` does, which knows no folder of wheels.
    """
    import slicer.packaging

    names = [f"{requirement.name}{requirement.specifier}" for requirement in wanted]
    if slicer.app.testingEnabled():
        return
    question = _(
        "These Python packages will be installed from {folder}. This will modify Slicer's Python environment. Continue?"
    ).format(folder=wheel_folder)
    if not slicer.util.confirmOkCancelDisplay(question, _("KDSegmentator - Install"), detailedText="\n".join(names)):
        raise RuntimeError("the user declined")
    before = _installed_versions()
    slicer.packaging.pip_install(["--no-index", "--find-links", str(wheel_folder), *names], requester="KDSegmentator")
    replaced = sorted(name for name, version in _installed_versions().items() if before.get(name, version) != version)
    if replaced:  # they may be loaded already, as they were before
        question = _("Packages were replaced that Slicer may be using: {names}. Restart Slicer now?")
        if slicer.util.confirmYesNoDisplay(question.format(names=", ".join(replaced)), _("KDSegmentator - Restart")):
            slicer.util.restart()


def _installed_versions() -> dict[str, str]:
    """Return the version of every installed distribution."""
    importlib.invalidate_caches()
    return {each.name: each.version for each in importlib.metadata.distributions() if each.name}

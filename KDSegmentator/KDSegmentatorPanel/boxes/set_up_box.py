"""The set-up box in Qt: all that is shown while packages are missing. Nothing here needs one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from KDSegmentatorPanel.slicer_packages import InstallationError, SlicerPackages
from KDSegmentatorPanel.translation import tr as _


class SetUpBox:
    """Offers to install what is missing.

    Args:
        ui: the box's widgets by name.
        packages: of Slicer's Python.
        complete: puts the panel in the place of the box; raises ImportError if it cannot be loaded.
    """

    def __init__(self, ui: Any, packages: SlicerPackages, *, complete: Callable[[], None]) -> None:
        self._ui = ui
        self._packages = packages
        self._complete = complete
        ui.setUpMessageLabel.setVisible(False)
        ui.installButton.clicked.connect(self._onInstall)
        self.look()

    def look(self) -> None:
        """Look again what is missing: somebody may have installed it otherwise."""
        missing = self._packages.missing()
        text = _(
            "KDSegmentator needs Python packages that Slicer does not have yet: {packages}. They are installed into "
            "Slicer's Python from the Python package index (pypi.org, about 100 MB), or from a folder on a computer "
            "without internet. Slicer asks before anything is installed."
        )
        self._ui.setUpLabel.setText(text.format(packages=", ".join(missing)))
        if not missing:
            try:
                self._complete()
            except ImportError as error:  # a package was replaced that is loaded already, or its wheel does not fit
                text = _("The packages are installed but cannot be loaded ({error}). Restart Slicer.")
                self._say(text.format(error=error))

    def _onInstall(self) -> None:
        folder = self._ui.wheelFolderEdit.currentPath.strip()
        try:
            self._packages.install(Path(folder) if folder else None)
        except InstallationError as error:
            self._say(str(error))
            return
        if folder:
            self._ui.wheelFolderEdit.addCurrentPathToHistory()  # it worked: offer it next time
        self.look()

    def _say(self, text: str) -> None:
        self._ui.setUpMessageLabel.setText(text[:1].upper() + text[1:])
        self._ui.setUpMessageLabel.setVisible(True)

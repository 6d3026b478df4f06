"""What lies where in a node's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.errors import NodeError
from KDSegmentatorLib.node.settings import SETTINGS_NAME
from KDSegmentatorLib.packs.store import PackStore

RESULT = "result"
"""The folder in a job's folder with what is delivered; it appears when all of it is complete."""

FETCHED = "input"
"""The folder in a job's folder with a series that was fetched from Orthanc."""


@dataclass(frozen=True)
class Places:
    """The paths of a node.

    Args:
        root: the node's folder.
    """

    root: Path

    @property
    def settings(self) -> Path:
        """The file of the settings."""
        return self.root / SETTINGS_NAME

    @property
    def state(self) -> Path:
        """Queue, job folders and log; for nobody but the node."""
        return self.root / "state"

    @property
    def queue(self) -> Path:
        """The file of the queue."""
        return self.state / "queue.sqlite"

    @property
    def log(self) -> Path:
        """The file of the log."""
        return self.state / "node.log"

    @property
    def secrets(self) -> Path:
        """Passwords and keys."""
        return self.root / "secrets"

    @property
    def orthanc(self) -> Path:
        """Orthanc's configuration, as it is generated."""
        return self.root / "orthanc" / "orthanc.json"

    def job(self, number: int) -> Path:
        """The folder of a job."""
        return self.state / "jobs" / str(number)

    def inside(self, path: str) -> Path:
        """Return a path of the settings, which is relative to the node's folder or absolute."""
        return self.root / Path(path).expanduser()

    def store(self, packs: str) -> PackStore:
        """Return the packs of the node: its own, and those that came with KDSegmentator."""
        return PackStore(self.inside(packs))

    def check(self) -> None:
        """Make the folders that only the node uses, and check that this is a node's folder.

        Raises:
            NodeError: it is not, or a folder cannot be made.
        """
        if not self.settings.is_file():
            raise NodeError(
                f"{self.root} is no node's folder: there is no {SETTINGS_NAME} in it. Name it with --node, or make one "
                "with 'kdseg-node init DIR'"
            )
        try:
            self.state.mkdir(mode=0o700, exist_ok=True)
            (self.state / "jobs").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise NodeError(f"{self.state} cannot be made ({error.strerror}); check owner and permissions") from error

"""Surfaces of segmentations, made in a process of their own, so that Slicer can be used meanwhile."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from KDSegmentatorLib.errors import JobError
from KDSegmentatorLib.jobs.folder import long_path, owned_folder
from KDSegmentatorLib.jobs.launcher import Child, PythonLauncher
from KDSegmentatorLib.mrml.surfaces import (
    COMMAND,
    LabelLayer,
    Mesh,
    add_surfaces,
    layers_without_surfaces,
    read_meshes,
    write_layers,
)
from KDSegmentatorPanel.ports import Background, Pending
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import for_people, in_words

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

_log = logging.getLogger(__name__)


class MakeMeshes(Protocol):
    """Makes surfaces of label maps: :class:`SurfaceProcess`."""

    def __call__(self, layers: list[LabelLayer]) -> dict[str, Mesh]:
        """Return them by segment id; called in the background."""
        ...

    def stop(self) -> None:
        """End what is at work, from any thread; nobody wants it any more."""
        ...


class SurfaceProcess:
    """Makes surfaces in a process of its own, which :meth:`stop` ends.

    Args:
        executable: Python with VTK; ``PythonSlicer`` in 3D Slicer.
        temporary_folder: for the files of the process; None takes the system's place for temporary files.
    """

    def __init__(self, executable: str | None = None, temporary_folder: Path | None = None) -> None:
        self._launch = PythonLauncher(executable, command=COMMAND)
        self._temporary_folder = Path(tempfile.gettempdir()) if temporary_folder is None else temporary_folder
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._wanted: object = None

    def __call__(self, layers: list[LabelLayer]) -> dict[str, Mesh]:
        """Return the surfaces by segment id.

        Raises:
            JobError: the process did not make them, which the log tells, or :meth:`stop` was called.
        """
        wanted = self._wanted = object()
        with owned_folder(long_path(self._temporary_folder)) as folder:
            write_layers(layers, folder)
            with self._lock:
                if self._wanted is not wanted:  # stopped while the label maps were written
                    raise JobError("the surfaces are not wanted any more")
                child = self._child = self._launch(folder)
            try:
                output = "".join(child.lines())
            finally:
                child.end(None)
                child.release()
            meshes = read_meshes(folder)
        if meshes is None:
            _log.warning("the surfaces were not made:\n%s", output)
            raise JobError("the surfaces could not be made, see the log; use Show 3D in the module Segmentations")
        return meshes

    def stop(self) -> None:
        """End the process that is at work, from any thread."""
        with self._lock:
            child, self._child, self._wanted = self._child, None, None
        if child is not None:
            child.end(None)


class Surfaces:
    """The surfaces that are still to be made.

    Args:
        make: makes them.
        background: where.
    """

    def __init__(self, make: MakeMeshes, background: Background) -> None:
        self._make = make
        self._background = background
        self._waiting: deque[vtkMRMLSegmentationNode] = deque()
        self._at_work: tuple[vtkMRMLSegmentationNode, list[LabelLayer], Pending[dict[str, Mesh]]] | None = None

    @property
    def text(self) -> str:
        """What is done, one sentence; empty if there is nothing to do."""
        return _("Making the surfaces …") if self._waiting or self._at_work is not None else ""

    def add(self, nodes: Iterable[vtkMRMLSegmentationNode]) -> None:
        """Make those of all segments of these nodes."""
        self._waiting += nodes

    def poll(self) -> str:
        """Begin with the next node, or give one its surfaces; return what went wrong, empty if nothing did."""
        try:
            if self._at_work is None:
                self._begin()
            else:
                self._finish()
        except Exception as error:
            self._at_work = None
            return for_people(in_words(error, _("to make the surfaces")))
        return ""

    def clear(self) -> None:
        """Make no more."""
        self._waiting.clear()
        if self._at_work is not None:
            self._at_work[2].cancel()
            self._make.stop()
            self._at_work = None

    def shut_down(self) -> None:
        """Make no more, and end the thread, because nobody will call :meth:`poll` any more."""
        self.clear()
        self._background.close()

    def _begin(self) -> None:
        node = self._waiting.popleft()
        layers = [] if node.GetScene() is None else layers_without_surfaces(node)
        if layers:
            self._at_work = node, layers, self._background.submit(lambda: self._make(layers))

    def _finish(self) -> None:
        assert self._at_work is not None  # noqa: S101 - for mypy
        node, layers, pending = self._at_work
        if pending.done():
            self._at_work = None
            if node.GetScene() is not None:
                add_surfaces(node, pending.result(), layers)

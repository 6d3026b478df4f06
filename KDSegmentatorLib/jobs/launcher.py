"""Starting a worker, and ending it with all of its processes.

In 3D Slicer the executable is ``PythonSlicer``, a small program that sets the environment, starts the real Python,
passes its standard streams and its exit code on, and waits. So a worker may be two processes: ending the first would
leave the second at work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from KDSegmentatorLib.errors import JobError

WORKER = ("-m", "KDSegmentatorLib.jobs.worker")
"""What Python is started with to do jobs."""

_LONGEST_LINE = 1 << 16
_ENDING_SECONDS = 1.0


class Child(Protocol):
    """A worker that was started."""

    def lines(self) -> Iterator[str]:
        """Yield the lines of its standard output and error until nobody can write there any more."""
        ...

    def exit_code(self) -> int | None:
        """Return its exit code, as ``subprocess.Popen.poll``; None while it runs."""
        ...

    def end(self, worker: int | None) -> None:
        """End it at once with all of its processes; nothing happens if they have ended.

        Args:
            worker: process id that the worker gave, if it did.
        """
        ...

    def send(self, line: bytes) -> None:
        """Write a line to its standard input; nothing happens if it has ended."""
        ...

    def release(self) -> None:
        """Let go of its standard input."""
        ...


class Launcher(Protocol):
    """Starts workers."""

    def __call__(self, folder: Path) -> Child:
        """Start a worker.

        Args:
            folder: of its own.

        Raises:
            JobError: it cannot be started.
        """
        ...


class PythonLauncher:
    """Starts workers in an own Python process, in the background and without a window.

    Args:
        executable: Python; ``PythonSlicer`` in 3D Slicer. None takes the one that runs.
        environment: variables; None takes this process's. The place of this library is added to ``PYTHONPATH``.
        command: Python's arguments.
        packages: folders of further packages, added to ``PYTHONPATH``.
    """

    def __init__(
        self,
        executable: Path | str | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        command: Sequence[str] = WORKER,
        packages: Sequence[Path] = (),
    ) -> None:
        self._command = tuple(command)
        self._executable = str(executable or sys.executable)
        self._environment = dict(os.environ if environment is None else environment)
        places = [str(place) for place in (Path(__file__).resolve().parents[2], *packages)]
        known = self._environment.get("PYTHONPATH")
        self._environment |= {
            "PYTHONPATH": os.pathsep.join([*places, known] if known else places),
            "PYTHONSAFEPATH": "1",  # nothing is imported from the folder of the job
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def __call__(self, folder: Path) -> Child:
        """Start a worker; see :class:`Launcher`.

        The folder is the working directory, so that the command has no character that a launcher could garble.
        """
        try:
            process = subprocess.Popen(  # noqa: S603 - a program of our own, no shell
                [self._executable, *self._command],
                cwd=folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                creationflags=_CREATION_FLAGS,
            )
        except (OSError, ValueError) as error:
            raise JobError(
                f"Python cannot be started ({self._executable}: {error}); install the application again if it happens "
                "once more"
            ) from error
        return _PythonChild(process)


if sys.platform == "win32":
    _CREATION_FLAGS = (
        subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS
    )

    def _end_tree(process: int, worker: int | None) -> None:
        import psutil

        found = []
        for pid in {process, worker} - {None}:
            with suppress(psutil.Error):
                parent = psutil.Process(pid)
                found += [parent, *parent.children(recursive=True)]
        for each in found:
            with suppress(psutil.Error):
                each.kill()

else:
    _CREATION_FLAGS = 0

    def _end_tree(process: int, worker: int | None) -> None:  # noqa: ARG001 - it is in the same group
        with suppress(ProcessLookupError, PermissionError):  # macOS: nobody is left but processes that have ended
            os.killpg(process, signal.SIGKILL)


class _PythonChild:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._silent = False

    def lines(self) -> Iterator[str]:
        output = self._process.stdout
        if output is not None:
            with output:
                while line := output.readline(_LONGEST_LINE):
                    yield line.decode("utf-8", errors="replace")
        self._silent = True

    def exit_code(self) -> int | None:
        return self._process.poll()

    def end(self, worker: int | None) -> None:
        if self.exit_code() is None or not self._silent:  # else their numbers may be those of others by now
            _end_tree(self._process.pid, worker)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDING_SECONDS)

    def send(self, line: bytes) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def release(self) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

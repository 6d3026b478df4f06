"""A node as a process, which tests kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from typing_extensions import Self

from KDSegmentatorLib.node.places import Places

ROOT = Path(__file__).resolve().parents[3]
_SECONDS = 120.0


class RunningNode:
    """``kdseg-node run``, ended with all of its processes when the block ends.

    Args:
        places: the node's folder.
    """

    def __init__(self, places: Places) -> None:
        self.command = [sys.executable, "-m", "KDSegmentatorLib.cli.node", "--node", str(places.root), "run"]
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        return self

    def __exit__(self, *_: object) -> None:
        workers = self.workers()
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        psutil.wait_procs(workers, 10)
        if self.process.stderr is not None:
            self.process.stderr.close()
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                worker.kill()

    def workers(self) -> list[psutil.Process]:
        """Return the processes that segment."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def kill(self) -> None:
        """End the node as a power cut would; its workers end by themselves."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        _, left = psutil.wait_procs(workers, 60)  # an overloaded machine needs seconds
        assert not left, "a worker outlives its node"

    def stop(self) -> None:
        """Ask the node to end, and wait for it."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0


def until(condition: Callable[[], object], node: RunningNode | None = None) -> None:
    """Wait until something is so."""
    end = time.monotonic() + _SECONDS
    while not condition():
        if node is not None and node.process.poll() is not None:
            assert node.process.stderr is not None
            raise AssertionError(f"the node ended: {node.process.stderr.read().decode(errors='replace')}")
        assert time.monotonic() < end, "it did not come about in two minutes"
        time.sleep(0.1)

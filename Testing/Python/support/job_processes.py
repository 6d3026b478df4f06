"""Jobs in processes of their own: waiting for what they say, and workers that hang."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from KDSegmentatorLib.io.lock import locked
from KDSegmentatorLib.jobs.messages import (
    Event,
    Failed,
    Progressed,
    Request,
    SegmentRequest,
    Started,
)
from KDSegmentatorLib.jobs.process import JobProcess

Start = Callable[..., JobProcess]
RequestT = TypeVar("RequestT", bound=Request)
LONG_SECONDS = 120.0

WAIT_FOR_CANCEL = """
import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec
while not Path("cancel").exists():
    time.sleep(0.01)
"""
HANG = """
import subprocess, sys, time
holding = '''
import sys, time
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from KDSegmentatorLib.io.lock import locked
with locked(Path(sys.argv[1]), 60):
    print("held", flush=True)
    time.sleep(600)
'''
child = subprocess.Popen([sys.executable, "-c", holding, {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
from KDSegmentatorLib.io.lock import locked
from pathlib import Path
from typing import Any, TypeVar

import msgspec
with locked(Path({worker!r}), 60):
    print("hanging", flush=True)
    time.sleep(600)
"""


def changed(request: RequestT, **changes: Any) -> RequestT:
    """Return a request with other fields, of its own or of its options."""
    own = {name: changes.pop(name) for name in request.__struct_fields__ if name in changes}
    return msgspec.structs.replace(request, **{"options": msgspec.structs.replace(request.options, **changes), **own})


def segment(request: Request, **changes: Any) -> SegmentRequest:
    """Return a request to segment one volume, with other fields, of its own or of its options."""
    return changed(SegmentRequest(**msgspec.structs.asdict(request)), **changes)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def until(job: JobProcess, found: Callable[[Event], bool]) -> Event:
    """Wait for an event."""
    seen: list[Event] = []
    for _ in range(int(LONG_SECONDS * 100)):
        for event in job.poll():
            seen.append(event)
            if found(event):
                return event
        if not job.running:
            break
        job.wait(0.01)
    raise AssertionError(f"the event did not come: {seen}")


def failure(job: JobProcess) -> Failed:
    end = job.wait(LONG_SECONDS)
    assert isinstance(end, Failed), (end, job.poll())
    return end


def released(path: Path) -> bool:
    """Return whether nobody holds a lock, after a while: the system lets go of it when its holder ends."""
    with locked(path, 30):
        return True


def worker_of(job: JobProcess) -> int:
    event = until(job, lambda event: isinstance(event, Started))
    assert isinstance(event, Started)
    return event.pid


def at(stage: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Progressed) and event.stage == stage


def launching_program(folder: Path) -> Path:
    """Return a program that starts Python, passes everything on, and waits, as PythonSlicer does."""
    program = folder / "PythonSlicer"
    program.write_text(
        textwrap.dedent(f"""\
            #!{sys.executable}
            import subprocess, sys
            code = subprocess.call([{sys.executable!r}, *sys.argv[1:]])
            sys.exit(code if code >= 0 else 1)
        """),
        encoding="utf-8",
    )
    program.chmod(0o700)
    return program

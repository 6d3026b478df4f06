"""The worker: ``python -m KDSegmentatorLib.jobs.worker``, started by an owner (``process.py``) in a folder of its own.

Standard input brings a line for every job, ``{"folder": "1", "stay": 0}``: a folder with a request in it, and for how
many seconds to wait for another job afterwards. The result goes into that folder, what happens to standard output
(:mod:`KDSegmentatorLib.jobs.messages`). A job stops when the file ``cancel`` is in its folder, when the system tells
the worker to end, and when nobody holds the other end of standard input any more. After a job that failed, the worker
ends.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

import msgspec

from KDSegmentatorLib.errors import CancelledError, InsufficientMemoryError, JobError, KDSegmentatorError
from KDSegmentatorLib.jobs.messages import (
    CANCEL_NAME,
    RESULT_NAME,
    AdviseRequest,
    AnyRequest,
    BatchRequest,
    Broken,
    Complete,
    Job,
    Started,
    read_request,
)
from KDSegmentatorLib.jobs.reporter import LogSender, Reporter
from KDSegmentatorLib.version import __version__

SUCCESS = 0
FAILURE = 1
CANCELLED = 130

_NICENESS = 5
_POLL_SECONDS = 0.02
_LEAST_FREE_MEMORY = 0.1
"""A worker that waits ends when less than this share of the computer's memory is available."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
"""What numpy's and ITK's libraries look at when they are loaded."""

_STDIN = 0
_received = bytearray()

if sys.platform == "win32":
    import ctypes
    import msvcrt

    _BROKEN_PIPE = 109
    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel.PeekNamedPipe.argtypes = (
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.c_void_p,
    )

    def stdin_closed() -> bool:
        """Return whether nobody holds the other end of the pipe at standard input any more.

        It is asked again and again, and not read by a thread: while one waits in a read, Windows lets no other call on
        the pipe through, and the start-up code of numpy's libraries makes such a call and hangs (numpy issue 24290).
        """
        try:
            handle = msvcrt.get_osfhandle(_STDIN)
        except OSError:  # there is none
            return False
        available = ctypes.c_uint32()
        if not _kernel.PeekNamedPipe(handle, None, 0, None, ctypes.byref(available), None):
            return ctypes.get_last_error() == _BROKEN_PIPE
        if available.value:
            _received.extend(os.read(_STDIN, available.value))
        return False

else:
    import select

    def stdin_closed() -> bool:
        """Return whether nobody holds the other end of the pipe at standard input any more."""
        readable, _, _ = select.select([_STDIN], [], [], 0)
        if not readable:
            return False
        content = os.read(_STDIN, 1 << 12)
        _received.extend(content)
        return not content


class Cancellation:
    """Whether the work should stop, for the library's ``cancel`` arguments.

    Args:
        file: asks to stop by being there.
    """

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        self._requested = False

    def listen(self) -> None:
        """Take the system's requests to end (Ctrl-C, SIGTERM) for requests to stop, from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def requested(self) -> bool:
        """Return whether to stop: that was asked for, or the owner is gone."""
        if not self._requested and (os.path.exists(self._file) or stdin_closed()):  # noqa: PTH110 - asked often
            self._requested = True
        return self._requested

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self._requested = True


def main() -> int:
    """Do the jobs that standard input names.

    Returns:
        The exit code: 0, 130 if a job was cancelled, 1 for any failure.
    """
    faulthandler.enable()  # a crash of a native library leaves its place in the log
    home = Path.cwd()
    reporter = Reporter(sys.stdout.fileno())
    logging.getLogger().addHandler(LogSender(reporter))
    logging.getLogger().setLevel(logging.INFO)
    logging.captureWarnings(True)
    if hasattr(os, "nice"):  # other programs go first; on Windows, the launcher does it
        os.nice(_NICENESS)
    job = _next_job(float("inf"))
    while job is not None:
        folder = home / job.folder
        os.chdir(folder)
        code = _do(folder, reporter)
        os.chdir(home)  # Windows does not remove a folder that a process is in
        if code != SUCCESS:
            return code
        reporter.send(Complete())
        job = _next_job(job.stay)
    return SUCCESS


def _next_job(seconds: float) -> Job | None:
    """Wait for a job; None if none comes in time, the owner is gone, or other programs need the memory."""
    end = time.monotonic() + seconds
    look = time.monotonic() + 1
    while b"\n" not in _received:
        if stdin_closed() or time.monotonic() >= end:
            return None
        if time.monotonic() >= look:
            look += 1
            if seconds < float("inf") and _memory_is_short():
                return None
        time.sleep(_POLL_SECONDS)
    line, _, rest = bytes(_received).partition(b"\n")
    _received[:] = rest
    return msgspec.json.decode(line, type=Job)


def _memory_is_short() -> bool:
    import psutil

    memory = psutil.virtual_memory()
    return bool(memory.available < _LEAST_FREE_MEMORY * memory.total)


def _do(folder: Path, reporter: Reporter) -> int:
    cancellation = Cancellation(folder / CANCEL_NAME)
    cancellation.listen()
    reporter.send(Started(pid=os.getpid(), version=__version__))
    try:
        request = read_request(folder)
        _set_threads(request)
        _run(request, folder, reporter, cancellation)
    except CancelledError as error:
        return _gave_up(error, reporter, CANCELLED)
    except KDSegmentatorError as error:
        return _gave_up(error, reporter, FAILURE)
    except MemoryError:
        problem = InsufficientMemoryError(
            "there is not enough memory; close other programs, take a smaller size of the task, or crop the volume"
        )
        return _gave_up(problem, reporter, FAILURE)
    except Exception as defect:  # its place goes to the log, the user gets a sentence
        traceback.print_exc()
        sentence = f"the segmentation failed unexpectedly ({type(defect).__name__}: {defect}); report it with the log"
        return _gave_up(JobError(sentence), reporter, FAILURE)
    return SUCCESS


def _run(request: AnyRequest, folder: Path, reporter: Reporter, cancellation: Cancellation) -> None:
    # only now: numpy and ITK look at the number of threads when they are loaded
    from KDSegmentatorLib.jobs.run import run_segmentation, write_result

    if isinstance(request, BatchRequest):
        from KDSegmentatorLib.jobs.batch import run_batch

        write_result(run_batch(request, reporter, cancellation.requested), folder / RESULT_NAME)
    elif isinstance(request, AdviseRequest):
        from KDSegmentatorLib.jobs.advise import run_advise

        write_result(run_advise(request, cancellation.requested), folder / RESULT_NAME)
    else:
        run_segmentation(request, folder, reporter, cancellation.requested)


def _set_threads(request: AnyRequest) -> None:
    if request.options.threads is not None:
        for name in _THREAD_VARIABLES:
            os.environ[name] = str(request.options.threads)


def _gave_up(error: KDSegmentatorError, reporter: Reporter, code: int) -> int:
    reporter.send(Broken.of(error))
    return code


if __name__ == "__main__":
    sys.exit(main())

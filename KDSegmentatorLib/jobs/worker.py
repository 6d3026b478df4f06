"""The worker: ``python -m KDSegmentatorLib.jobs.worker REQUEST``, started by a job (``process.py``).

It writes what happens to standard output (:mod:`KDSegmentatorLib.jobs.lines`) and the result into the folder of the
request. It stops when the file ``cancel`` is there or when it is told to end, and with ``--until-stdin-closes`` when
nobody holds its standard input any more.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from KDSegmentatorLib.errors import CancelledError, InsufficientMemoryError, JobError, KDSegmentatorError
from KDSegmentatorLib.jobs.cancellation import Cancellation, stdin_closed
from KDSegmentatorLib.jobs.events import Started
from KDSegmentatorLib.jobs.lines import Broken, Complete
from KDSegmentatorLib.jobs.reporter import LogSender, Reporter
from KDSegmentatorLib.jobs.request import CANCEL_NAME, STDIN_OPTION, BatchRequest, Request, read_request
from KDSegmentatorLib.version import __version__

SUCCESS = 0
FAILURE = 1
CANCELLED = 130

_NICENESS = 5
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
"""What numpy's and ITK's libraries look at when they are loaded."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a request asks for.

    Args:
        arguments: the command line without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 130 if the job was cancelled, 1 for any failure.
    """
    parser = argparse.ArgumentParser(description="Run a job of KDSegmentator.")
    parser.add_argument("request", type=Path)
    parser.add_argument(STDIN_OPTION, action="store_true", help="stop when nobody holds standard input any more")
    chosen = parser.parse_args(arguments)
    path = chosen.request.absolute()
    owner_gone = stdin_closed if chosen.until_stdin_closes else _never
    faulthandler.enable()  # a crash of a native library leaves its place in the log
    reporter = Reporter(sys.stdout.fileno())
    cancellation = Cancellation(path.parent / CANCEL_NAME, owner_gone)
    cancellation.listen()
    logging.getLogger().addHandler(LogSender(reporter))
    logging.getLogger().setLevel(logging.INFO)
    logging.captureWarnings(True)
    reporter.send(Started(pid=os.getpid(), version=__version__))
    try:
        request = read_request(path)
        _leave_room(request)
        _run(request, path.parent, reporter, cancellation)
    except CancelledError as error:
        return _gave_up(error, reporter, CANCELLED)
    except KDSegmentatorError as error:
        return _gave_up(error, reporter, FAILURE)
    except MemoryError:
        return _gave_up(
            InsufficientMemoryError(
                "there is not enough memory; close other programs, take a smaller size of the task, or crop the volume"
            ),
            reporter,
            FAILURE,
        )
    except Exception as error:  # a defect: its place goes to the log, the user gets a sentence
        traceback.print_exc()
        return _gave_up(
            JobError(f"the segmentation failed unexpectedly ({type(error).__name__}: {error}); report it with the log"),
            reporter,
            FAILURE,
        )
    reporter.send(Complete())
    return SUCCESS


def _run(request: Request, folder: Path, reporter: Reporter, cancellation: Cancellation) -> None:
    # only now: numpy and ITK look at the number of threads when they are loaded
    if isinstance(request, BatchRequest):
        from KDSegmentatorLib.jobs.batch import run_batch

        run_batch(request, folder, reporter, cancellation.requested)
    else:
        from KDSegmentatorLib.jobs.segmentation import run_segmentation

        run_segmentation(request, folder, reporter, cancellation.requested)


def _leave_room(request: Request) -> None:
    """Let the libraries use the request's number of threads, and other programs go first."""
    if request.settings.threads is not None:
        for name in _THREAD_VARIABLES:
            os.environ[name] = str(request.settings.threads)
    if hasattr(os, "nice"):  # on Windows, the launcher does it
        os.nice(_NICENESS)


def _gave_up(error: KDSegmentatorError, reporter: Reporter, code: int) -> int:
    reporter.send(Broken(kind=type(error).__name__, message=str(error)))
    return code


def _never() -> bool:
    return False


if __name__ == "__main__":
    sys.exit(main())

"""``kdseg batch``: the scans of a folder, all with one size, into label maps and one table."""

from __future__ import annotations

import argparse
import sys
import time

from KDSegmentatorLib.cli.segment import run_options
from KDSegmentatorLib.cli.terminal import ProgressLine, describe_seconds, listening
from KDSegmentatorLib.errors import InvalidSettingsError, KDSegmentatorError
from KDSegmentatorLib.inference.progress import Progress
from KDSegmentatorLib.io.dicom_file import is_dicom_file
from KDSegmentatorLib.jobs import bids
from KDSegmentatorLib.jobs.batch import run_batch
from KDSegmentatorLib.jobs.batch_files import find_scans
from KDSegmentatorLib.jobs.messages import BatchRequest, Message, Progressed, RunChanged
from KDSegmentatorLib.jobs.reporter import Reporter
from KDSegmentatorLib.packs.store import PackStore


class BatchFailedError(KDSegmentatorError):
    """Some files of a batch failed; the others are done."""


def run(arguments: argparse.Namespace) -> None:
    """Segment the files of a folder; finished ones stay, whatever happens, and are skipped the next time.

    Args:
        arguments: of ``kdseg batch``.

    Raises:
        BatchFailedError: files failed, each of which was named.
        KDSegmentatorError: see :func:`KDSegmentatorLib.jobs.batch.run_batch`.
    """
    store = PackStore()
    as_bids = arguments.layout == "bids" or (arguments.layout == "auto" and bids.is_dataset(arguments.input))
    pattern = arguments.pattern or (bids.PATTERN if as_bids else "*")
    inputs = find_scans(arguments.input, pattern, arguments.output)
    if not inputs:
        series = any(is_dicom_file(path) for path in arguments.input.iterdir() if path.is_file())
        raise InvalidSettingsError(
            f"{arguments.input} is itself the folder of a DICOM series; give the folder that it lies in, or segment it "
            "with 'kdseg segment'"
            if series
            else f"there is no scan in {arguments.input} that {pattern!r} finds; '**/*' looks into folders, too"
        )
    request = BatchRequest(
        task=arguments.pack,
        user_packs=str(store.user_folder),
        shipped_packs=str(store.shipped_folder),
        options=run_options(arguments),
        input_folder=str(arguments.input.absolute()),
        inputs=inputs,
        output_folder=str(arguments.output.absolute()),
        suffix=arguments.format,
        resume=not arguments.again,
        bids=as_bids,
    )
    reporter = _Lines(quiet=arguments.quiet)
    with listening() as interrupt:
        try:
            finished = run_batch(request, reporter, interrupt.requested)
        finally:
            reporter.progress.clear()
    failed = [file for file in finished.files if file.state == "failed"]
    if not arguments.quiet:
        done = sum(file.state == "done" for file in finished.files)
        print(f"{done} segmented, {len(finished.files) - done - len(failed)} done before, {len(failed)} failed")
        print(f"Wrote {finished.table}")
    if failed:
        names = ", ".join(file.input for file in failed)
        raise BatchFailedError(f"{len(failed)} of {len(finished.files)} files failed: {names}; the table says why")


class _Lines(Reporter):
    """Prints a line for every file that is done, and progress in between."""

    def __init__(self, *, quiet: bool) -> None:
        self.progress = ProgressLine(sys.stderr)
        self._quiet = quiet
        self._begun = 0.0
        self._seconds: list[float] = []

    def send(self, message: Message) -> None:
        """Print a message; failures and warnings also if quiet."""
        if isinstance(message, Progressed) and not self._quiet:
            self.progress(
                Progress(
                    stage=message.stage, done=message.done, total=message.total, seconds_left=message.seconds_left
                ),
                f"{message.run + 1}/{message.runs}{self._left(message.runs - message.run)} ",
            )
        elif isinstance(message, RunChanged) and message.state == "running":
            self._begun = time.monotonic()
        elif isinstance(message, RunChanged):
            if message.state == "done":
                self._seconds.append(time.monotonic() - self._begun)
            self.progress.clear()
            text = f"{message.run + 1}/{message.runs} {message.name}: {message.state}"
            if message.message:
                print(f"{text}: {' '.join(message.message.split())}", file=sys.stderr)
            elif not self._quiet:
                print(text)

    def _left(self, scans: int) -> str:
        """Return how long so many scans will take, from those that were segmented; empty before the first is."""
        if not self._seconds:
            return ""
        return f" ({describe_seconds(scans * sum(self._seconds) / len(self._seconds))} left)"

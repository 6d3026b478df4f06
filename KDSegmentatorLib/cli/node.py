"""The ``kdseg-node`` command: an inference node that takes scans in and delivers their segmentations."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.cli.main import BAD_INPUT, BAD_INPUT_ERRORS, FAILURE, INTERRUPTED, SUCCESS, positive
from KDSegmentatorLib.errors import KDSegmentatorError, NodeError
from KDSegmentatorLib.version import __version__

if TYPE_CHECKING:
    from KDSegmentatorLib.node.places import Places
    from KDSegmentatorLib.node.queue import Queue

NODE_VARIABLE = "KDSEG_NODE"
_LOG_BYTES = 10_000_000
_LOGS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``kdseg-node``.

    Args:
        arguments: the command line without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 2 for bad input, settings or usage, 130 after Ctrl-C, 1 for any other failure.
    """
    chosen = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = chosen.run
    try:
        return command(chosen)
    except KeyboardInterrupt:
        return INTERRUPTED
    except KDSegmentatorError as error:
        print(f"kdseg-node: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, BAD_INPUT_ERRORS) else FAILURE


def _init(arguments: argparse.Namespace) -> int:
    from KDSegmentatorLib.node.new_node import make_node

    for line in make_node(arguments.folder):
        print(line)
    print(f"Next: look through the settings, then: kdseg-node --node {arguments.folder} check, and run")
    return SUCCESS


def _check(arguments: argparse.Namespace) -> int:
    from KDSegmentatorLib.node import safety
    from KDSegmentatorLib.node.settings import read_settings

    places = _places(arguments)
    settings = read_settings(places.root)
    found = safety.problems(places, settings)
    for line in safety.warnings(settings):
        print(f"note: {line}")
    for line in found:
        print(f"unsafe or wrong: {line}", file=sys.stderr)
    if not found:
        print("the node may run")
    return BAD_INPUT if found else SUCCESS


def _run(arguments: argparse.Namespace) -> int:
    from KDSegmentatorLib.node import safety
    from KDSegmentatorLib.node.service import Service
    from KDSegmentatorLib.node.settings import read_settings

    places = _places(arguments)
    settings = read_settings(places.root)
    found = safety.problems(places, settings)
    if found:
        raise NodeError(f"the node must not run: {'; '.join(found)}")
    _log_to(places)
    service = Service(places, settings)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: service.stop())
    try:
        service.run()
    finally:  # who runs a node within another program keeps its own
        for number, handler in before.items():
            signal.signal(number, handler)
    return SUCCESS


def _log_to(places: Places) -> None:
    """Log our own lines, to the node's file and to standard error; libraries could name patients, and log nothing."""
    own = logging.getLogger("KDSegmentatorLib.node")
    own.setLevel(logging.INFO)
    own.propagate = False
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    file = RotatingFileHandler(places.log, maxBytes=_LOG_BYTES, backupCount=_LOGS, encoding="utf-8")
    for handler in (file, logging.StreamHandler(sys.stderr)):
        handler.setFormatter(form)
        own.addHandler(handler)
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger().setLevel(logging.CRITICAL)


def _status(arguments: argparse.Namespace) -> int:
    from KDSegmentatorLib.cli.terminal import table
    from KDSegmentatorLib.node.deliveries import Deliveries

    queue = _queue(arguments)
    deliveries = Deliveries(queue)
    suspension = queue.suspension()
    if suspension is not None:
        print(f"SUSPENDED, no job is begun: {suspension.reason}\n")
    print(", ".join(f"{count} {state}" for state, count in queue.counts().items() if count) or "no jobs")
    rows = [("Job", "State", "Rule", "Pack", "Targets", "Why")]
    for job in queue.jobs(limit=arguments.jobs):
        targets = ", ".join(f"{each.target} {each.state}" for each in deliveries.of_job(job.id))
        rows.append((str(job.id), job.state, job.rule or "none", job.pack, targets, job.reason))
    if len(rows) > 1:
        print(f"\n{table(rows, numbers=[0])}")
    return SUCCESS


def _retry(arguments: argparse.Namespace) -> int:
    job = _queue(arguments).retry(arguments.job)
    print(f"job {job.id} is {'delivered' if job.state == 'written' else 'segmented'} again")
    return SUCCESS


def _suspend(arguments: argparse.Namespace) -> int:
    _queue(arguments).suspend("operator", arguments.reason)
    print("no job is begun until 'kdseg-node resume'")
    return SUCCESS


def _resume(arguments: argparse.Namespace) -> int:
    print("jobs are begun again" if _queue(arguments).resume() else "the queue was not suspended")
    return SUCCESS


def _audit(arguments: argparse.Namespace) -> int:
    from KDSegmentatorLib.node import history

    for entry in history.entries(_queue(arguments).connection, arguments.job):
        print(json.dumps(entry))
    return SUCCESS


def _models(arguments: argparse.Namespace) -> int:
    from KDSegmentatorLib.node.settings import read_settings

    places = _places(arguments)
    store = places.store(read_settings(places.root).packs)
    if arguments.action == "list":
        for pack in store.packs():
            previous = store.previous(pack.manifest.id)
            back = f"; rolls back to {previous.manifest.version}" if previous else ""
            print(f"{pack.manifest.id} {pack.manifest.version}  {pack.manifest_sha256[:12]}{back}")
        for damaged in store.damaged():
            print(f"{damaged.id} is damaged: {damaged.error}")
        return SUCCESS
    pack = store.install(arguments.path) if arguments.action == "install" else store.roll_back(arguments.id)
    print(
        f"{pack.manifest.id} is {pack.manifest.version} from the next job on; a job at work ends with the pack that it "
        "began with"
    )
    return SUCCESS


def _once(arguments: argparse.Namespace) -> int:
    from KDSegmentatorLib.errors import InvalidSettingsError
    from KDSegmentatorLib.node import container

    source = container.folder_of(arguments.input, container.INPUT_VARIABLES, os.environ, "folder of the scans")
    target = container.folder_of(arguments.output, container.OUTPUT_VARIABLES, os.environ, "folder for the results")
    task: dict[str, Any] = container.task_settings(source)

    def choice(name: str, given: str | None, default: str) -> Any:
        return given or task.get(name) or os.environ.get(f"KDSEG_{name.upper()}") or default

    pack = choice("pack", arguments.pack, "")
    if not pack:
        raise InvalidSettingsError(
            "name the pack: --pack NAME, KDSEG_PACK, or 'pack' in the settings of mercure's module"
        )
    rule = container.rule_of(pack, choice("size", arguments.size, ""), choice("outputs", arguments.outputs, "seg,sr"))
    failures = container.segment_folder(source, target, rule)
    for line in failures:
        print(f"kdseg-node: {' '.join(line.split())}", file=sys.stderr)
    return FAILURE if failures else SUCCESS


def _places(arguments: argparse.Namespace) -> Places:
    from KDSegmentatorLib.node.places import Places

    places = Places(Path(arguments.node or os.environ.get(NODE_VARIABLE) or "."))
    places.check()
    return places


def _queue(arguments: argparse.Namespace) -> Queue:
    from KDSegmentatorLib.node.queue import Queue

    return Queue(_places(arguments).queue)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdseg-node",
        description="An inference node: scans come from a folder or the PACS, results go to folders and the PACS.",
        epilog="Exit code: 0 done, 2 bad input, settings or usage, 130 cancelled with Ctrl-C, 1 any other failure.",
    )
    parser.add_argument("--version", action="version", version=f"kdseg-node {__version__}")
    parser.add_argument(
        "--node", type=Path, metavar="DIR", help=f"the node's folder (default: {NODE_VARIABLE}, or the current folder)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        made.set_defaults(run=run)
        return made

    add(
        "init", _init, "make a node's folder with safe settings, or Orthanc's configuration after a change"
    ).add_argument("folder", type=Path, metavar="DIR")
    add("check", _check, "say what is unsafe or wrong in the node's settings")
    add("run", _run, "take scans in, segment, deliver, until it is ended")
    status = add("status", _status, "list the jobs")
    status.add_argument("--jobs", type=positive, default=20, metavar="N", help="how many (default: 20)")
    add("retry", _retry, "run a job again, or only deliver it again if that failed").add_argument(
        "job", type=positive, metavar="JOB"
    )
    add("suspend", _suspend, "begin no more jobs").add_argument("reason", metavar="WHY")
    add("resume", _resume, "begin jobs again")
    add("audit", _audit, "check the audit log and print it, a JSON object a line").add_argument(
        "--job", type=positive, metavar="JOB", help="of one job only (its part alone cannot be checked)"
    )
    models = add("models", _models, "list the packs of the node, swap one, or roll it back")
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="list the packs")
    actions.add_parser("install", help="install a pack, or swap it for another version").add_argument(
        "path", type=Path, metavar="PATH"
    )
    actions.add_parser("roll-back", help="go back to the version before").add_argument("id", metavar="ID")
    once = add(
        "once", _once, "segment the scans of a folder into another one, as a container of mercure or MONAI Deploy"
    )
    once.add_argument("input", type=Path, nargs="?", metavar="IN", help="default: MERCURE_IN_DIR or MONAI_INPUTPATH")
    once.add_argument(
        "output", type=Path, nargs="?", metavar="OUT", help="default: MERCURE_OUT_DIR or MONAI_OUTPUTPATH"
    )
    once.add_argument("--pack", metavar="NAME", help="a task, for example hippocampus (default: KDSEG_PACK)")
    once.add_argument("--size", help="default: KDSEG_SIZE, or the one that the task recommends")
    once.add_argument("--outputs", metavar="A,B", help="seg, rtstruct, sr, capture, labels, statistics, overlay")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""One folder in, one folder out: the command of a container, for mercure, MONAI Deploy, and by hand.

mercure mounts a folder with one series and a ``task.json``, names both folders in ``MERCURE_IN_DIR`` and
``MERCURE_OUT_DIR``, and sends the ``*.dcm`` files that it finds in the second. MONAI Deploy names them in
``MONAI_INPUTPATH`` and ``MONAI_OUTPUTPATH``.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from KDSegmentatorLib.errors import ImageReadError, InvalidSettingsError, KDSegmentatorError
from KDSegmentatorLib.io.files import replace
from KDSegmentatorLib.io.images import image_suffix, read_volume
from KDSegmentatorLib.node.outputs import write_outputs
from KDSegmentatorLib.node.scan import Scan
from KDSegmentatorLib.node.settings import DICOM_OUTPUTS, Rule
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter

INPUT_VARIABLES = ("MERCURE_IN_DIR", "MONAI_INPUTPATH")
OUTPUT_VARIABLES = ("MERCURE_OUT_DIR", "MONAI_OUTPUTPATH")
_TASK_NAME = "task.json"

_log = logging.getLogger(__name__)


def folder_of(given: Path | None, variables: tuple[str, ...], environment: Mapping[str, str], what: str) -> Path:
    """Return a folder that was given, or that the environment names.

    Raises:
        InvalidSettingsError: neither does, or there is no such folder.
    """
    named = given or next((Path(environment[name]) for name in variables if environment.get(name)), None)
    if named is None:
        raise InvalidSettingsError(f"name the {what}, or set {' or '.join(variables)}")
    if not named.is_dir():
        raise InvalidSettingsError(f"the {what} {named} does not exist")
    return named


def task_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that mercure's ``task.json`` has for this module: pack, size, outputs; none without one.

    Raises:
        ImageReadError: the file is damaged.
    """
    path = folder / _TASK_NAME
    if not path.is_file():
        return {}
    try:
        process = json.loads(path.read_text(encoding="utf-8")).get("process") or {}
        if isinstance(process, list):  # a chain of modules: mercure says which one is meant nowhere else
            process = process[0] if process else {}
        settings = process.get("settings") or {}
        return {name: settings[name] for name in ("pack", "size", "outputs") if name in settings}
    except (OSError, ValueError, AttributeError) as error:
        raise ImageReadError(f"{path} cannot be read ({type(error).__name__}); it comes from mercure") from error


def rule_of(pack: str, size: str, outputs: object) -> Rule:
    """Return what is made, in the form of a node's rule.

    Raises:
        InvalidSettingsError: a value makes no sense.
    """
    named = [name.strip() for name in outputs.split(",")] if isinstance(outputs, str) else outputs
    try:
        return msgspec.convert({"name": "once", "task": pack, "size": size, "outputs": named, "targets": ["out"]}, Rule)
    except msgspec.ValidationError as error:
        raise InvalidSettingsError(f"the settings make no sense: {error}") from error


def segment_folder(source: Path, target: Path, rule: Rule, store: PackStore | None = None) -> list[str]:
    """Segment every scan of a folder: each image file, and each DICOM series that can be a volume.

    A scan that fails does not stop the others. The files of a scan appear when all of them are complete.

    Args:
        source: the folder of the scans.
        target: where results go, flat: ``SERIES_UID#SOP_UID.dcm`` for DICOM, else ``NAME-labels.nii.gz`` and so on.
        rule: task, size and outputs.
        store: None for the user's and the shipped packs.

    Returns:
        What failed, and why.

    Raises:
        ImageReadError: there is no scan.
        KDSegmentatorError: the pack or its engine cannot be used.
    """
    segmenter = Segmenter(rule.task, rule.run_options(), store=store)
    failures = []
    count = 0
    for name, read in _scans(source):
        count += 1
        try:
            scan = read()
            if scan.series is None and all(output in DICOM_OUTPUTS for output in rule.outputs):
                raise InvalidSettingsError("DICOM objects need a DICOM series; add 'labels' to the outputs")
            result = segmenter(scan.volume)
            with tempfile.TemporaryDirectory(dir=target, prefix=".kdseg-") as unfinished:
                folder = Path(unfinished) / "result"
                written = write_outputs(folder, scan, result, rule, segmenter.pack.manifest, {})
                for file, facts in written.items():
                    uids = (facts.get("series_instance_uid"), facts.get("sop_instance_uid"))
                    replace(folder / file, target / (f"{uids[0]}#{uids[1]}.dcm" if all(uids) else f"{name}-{file}"))
        except KDSegmentatorError as error:
            _log.error("%s: %s", name, error)
            failures.append(f"{name}: {error}")
    if not count:
        raise ImageReadError(f"{source} holds no scan: neither an image file nor a DICOM series that can be a volume")
    return failures


def _scans(source: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name of each scan, and what reads it."""
    files = sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    others = [path for path in files if image_suffix(path) is None and path.name != _TASK_NAME]
    for path in files:
        suffix = image_suffix(path)
        if suffix is not None:
            name = path.relative_to(source).as_posix()[: -len(suffix)].replace("/", "_")
            yield name, lambda path=path: Scan(volume=read_volume(path), file=path)
    if others:
        yield from _series(source)


def _series(source: Path) -> Iterator[tuple[str, Any]]:
    from KDSegmentatorLib.dicom.series import find_series, read_series

    def read(uid: str) -> Scan:
        series = read_series(source, series=uid)
        return Scan(volume=series.volume, series=series)

    try:
        found = find_series(source)
    except ImageReadError:
        return  # no DICOM file among them
    for summary in found:
        if summary.obstacle:
            _log.info("series %s is left out: %s", summary.uid, summary.obstacle)
        else:
            yield summary.uid, lambda uid=summary.uid: read(uid)

"""Whether a node may run as it is set up: what is unsafe is refused, each with what to do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from KDSegmentatorLib.errors import KDSegmentatorError, UnsuitableVolumeError
from KDSegmentatorLib.node import history, models
from KDSegmentatorLib.node.new_node import configuration
from KDSegmentatorLib.node.outputs import check_outputs
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.secret_files import exposed, read_secret
from KDSegmentatorLib.node.settings import (
    DICOM_OUTPUTS,
    DicomTarget,
    FolderTarget,
    Orthanc,
    Settings,
    Tls,
    WebTarget,
)
from KDSegmentatorLib.node.targets import tls_context
from KDSegmentatorLib.node.upkeep import disk_problem


def problems(places: Places, settings: Settings) -> list[str]:
    """Return why a node must not run; nothing if it may.

    Args:
        places: the node's folder.
        settings: read from it.
    """
    found = [
        *_folders(places, settings),
        *_packages(settings),
        *_rules(settings),
        *_targets(places, settings),
        *([] if settings.orthanc is None else _orthanc(places, settings, settings.orthanc)),
        *models.problems(settings, places.store(settings.packs)),
    ]
    full = disk_problem(places, settings.limits)
    if full is not None:
        found.append(full)
    try:
        queue = Queue(places.queue)
        for _ in history.entries(queue.connection):
            pass
        queue.close()
    except KDSegmentatorError as error:
        found.append(str(error))
    return found


def warnings(settings: Settings) -> list[str]:
    """Return what is not as it should be, but may be."""
    found = []
    if sys.platform != "win32" and os.geteuid() == 0:
        found.append("this is the superuser: let the node run as a user of its own (packaging/kdseg-node.service)")
    if settings.watch is None and settings.orthanc is None:
        found.append("nothing comes in: there is neither [watch] nor [orthanc]")
    return found


def _folders(places: Places, settings: Settings) -> Iterator[str]:
    if sys.platform != "win32":
        for folder in (places.state, places.secrets):
            if folder.is_dir() and folder.stat().st_mode & 0o077:
                yield f"others may look into {folder}; run: chmod 700 {folder}"
        if places.settings.stat().st_mode & 0o022:
            yield f"others may change {places.settings}; run: chmod go-w {places.settings}"
    watched = None if settings.watch is None else places.inside(settings.watch.folder).resolve()
    if watched is not None and not watched.is_dir():
        yield f"there is no folder {watched} to watch; make it, or mount it"
    for target in settings.target:
        if isinstance(target, FolderTarget):
            folder = places.inside(target.folder).resolve()
            if not folder.is_dir():
                yield f"target {target.name}: there is no folder {folder}; make it, or mount it"
            if watched is not None and (folder.is_relative_to(watched) or watched.is_relative_to(folder)):
                yield (
                    f"target {target.name}: its folder and the watched one lie in each other; results would be taken "
                    "for scans"
                )


def _packages(settings: Settings) -> Iterator[str]:
    needed = []
    if settings.orthanc is not None or any(isinstance(target, WebTarget) for target in settings.target):
        needed += ["dicomweb_client", "requests"]
    if any(isinstance(target, DicomTarget) for target in settings.target):
        needed.append("pynetdicom")
    if any(output in DICOM_OUTPUTS for rule in settings.rule for output in rule.outputs):
        needed += ["pydicom", "highdicom"]
    for package in needed:
        if find_spec(package) is None:
            yield f"the package {package} is not installed; run: pip install 'kdsegmentator[node]'"


def _rules(settings: Settings) -> Iterator[str]:
    if not settings.rule:
        yield "there is no [[rule]]: no scan would be segmented"
    for rule in settings.rule:
        try:
            rule.run_options()
            check_outputs(settings, rule, dicom=True)
            if "sr" in rule.outputs and not {"seg", "labelmap"} & set(rule.outputs):
                yield f"rule {rule.name}: the report sr refers to a segmentation; add seg to its outputs"
        except UnsuitableVolumeError as error:
            yield str(error)
        except KDSegmentatorError as error:
            yield f"rule {rule.name}: {error}"


def _targets(places: Places, settings: Settings) -> Iterator[str]:
    for target in settings.target:
        where = f"target {target.name}"
        if isinstance(target, DicomTarget):
            if target.tls is None and not target.plain and not is_this_machine(target.host):
                yield (
                    f"{where}: patient data would go to {target.host} without TLS; give it a tls table, or plain = "
                    "true if the network is protected otherwise"
                )
            if target.commitment and settings.orthanc is None:
                yield f"{where}: storage commitment is asked for through Orthanc, but there is no [orthanc]"
        if isinstance(target, WebTarget):
            parts = urlsplit(target.url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                yield f"{where}: {target.url!r} is no address of a DICOMweb service"
            elif parts.scheme == "http" and not is_this_machine(parts.hostname):
                yield f"{where}: patient data would go to {parts.hostname} in the open; give an https address"
            if parts.username or parts.password:
                yield f"{where}: a password stands in its url; put it into a file and name that as password"
            if target.password:
                yield from _secret(places.inside(target.password), where)
        if not isinstance(target, FolderTarget) and target.tls is not None:
            yield from _tls(places, target.tls, where)


def _orthanc(places: Places, settings: Settings, orthanc: Orthanc) -> Iterator[str]:
    parts = urlsplit(orthanc.url)
    if parts.scheme != "http" or not is_this_machine(parts.hostname or ""):
        yield f"[orthanc] url {orthanc.url!r} must be http on 127.0.0.1: Orthanc has to run beside the node"
    if not orthanc.sender:
        yield "[orthanc] names no sender: nobody could send anything; add an [[orthanc.sender]]"
    twice = {sender.aet for sender in orthanc.sender if [s.aet for s in orthanc.sender].count(sender.aet) > 1}
    for aet in sorted(twice):
        yield f"[orthanc] names the sender {aet} twice: Orthanc would know one of the two only"
    if orthanc.tls is None and not orthanc.plain and not all(is_this_machine(s.host) for s in orthanc.sender):
        yield (
            "[orthanc] scans would come without TLS; give it a tls table, or plain = true if the network is protected "
            "otherwise"
        )
    if orthanc.tls is not None:
        yield from _tls(places, orthanc.tls, "[orthanc]")
        if not orthanc.tls.certificate:
            yield "[orthanc] tls needs a certificate and its key: it is a server"
    yield from _secret(places.inside(orthanc.password), "[orthanc]")
    try:
        password = read_secret(places.inside(orthanc.password))
        if json.loads(places.orthanc.read_text(encoding="utf-8")) != configuration(places, settings, orthanc, password):
            yield (
                f"{places.orthanc} does not fit the settings any more; run: kdseg-node init {places.root}, and restart "
                "Orthanc"
            )
        if (problem := exposed(places.orthanc)) is not None:
            yield problem
    except (OSError, ValueError) as error:
        yield f"{places.orthanc} cannot be read ({type(error).__name__}); run: kdseg-node init {places.root}"
    except KDSegmentatorError:
        pass  # the password's file was named above


def _secret(path: Path, where: str) -> Iterator[str]:
    try:
        read_secret(path)
    except KDSegmentatorError as error:
        yield f"{where}: {error}"


def _tls(places: Places, tls: Tls, where: str) -> Iterator[str]:
    try:
        tls_context(tls, places)
        if tls.key and (problem := exposed(places.inside(tls.key))) is not None:
            yield f"{where}: {problem}"
    except KDSegmentatorError as error:
        yield f"{where}: {error}"


def is_this_machine(host: str) -> bool:
    """Return whether a host is this machine, by its name alone; nothing is looked up."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

"""Making a node's folder, and the configuration of the Orthanc beside it."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from KDSegmentatorLib.errors import NodeError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.secret_files import new_secret
from KDSegmentatorLib.node.settings import DicomTarget, Orthanc, Settings, read_settings

_MAY = ("Echo", "Store", "Find", "FindWorklist", "Get", "Move", "StorageCommitment")


def make_node(root: Path) -> list[str]:
    """Make a node's folder, or bring one up to date with its settings; return what was done.

    Settings and secrets that are there stay; Orthanc's configuration is written anew.

    Raises:
        NodeError: a folder or file cannot be made.
        InvalidSettingsError: the settings that are there make no sense.
    """
    places = Places(root)
    done = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        for folder in (places.secrets, places.state):
            folder.mkdir(mode=0o700, exist_ok=True)
        if not places.settings.exists():
            with atomic_output(places.settings) as unfinished:
                unfinished.write_text(
                    (files("KDSegmentatorLib.node") / "template.toml").read_text(encoding="utf-8"), encoding="utf-8"
                )
            done.append(f"{places.settings}: the settings, with explanations")
        settings = read_settings(root)
        places.check()
        made = [places.inside(settings.packs)]
        if settings.watch is not None:
            made.append(places.inside(settings.watch.folder))
        made += [places.inside(target.folder) for target in settings.target if hasattr(target, "folder")]
        for folder in made:
            if not folder.exists():
                folder.mkdir(parents=True)
                done.append(f"{folder}: a folder")
        if settings.orthanc is not None:
            write_configuration(places, settings, settings.orthanc)
            done.append(f"{places.orthanc}: Orthanc's configuration; start it with: Orthanc {places.orthanc}")
    except OSError as error:
        raise NodeError(f"{error.filename or root} cannot be made ({error.strerror}); check the permissions") from error
    return done


def write_configuration(places: Places, settings: Settings, orthanc: Orthanc) -> None:
    """Write Orthanc's configuration; it holds a password, so that only the node's user may read it.

    Raises:
        OSError: it cannot be written.
    """
    for folder in (places.orthanc.parent, places.orthanc.parent / "storage"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = new_secret(places.inside(orthanc.password))
    content = json.dumps(configuration(places, settings, orthanc, password), indent=2) + "\n"
    with atomic_output(places.orthanc) as unfinished:
        os.chmod(unfinished, 0o600)  # noqa: PTH101 - on Windows, too
        unfinished.write_text(content, encoding="utf-8")


def configuration(places: Places, settings: Settings, orthanc: Orthanc, password: str) -> dict[str, Any]:
    """Return the configuration of an Orthanc that receives from those who may send, and does nothing else.

    Why each line is as it is: docs/node.md.

    Args:
        places: the node's folder.
        settings: with the targets that are asked for storage commitment.
        orthanc: with the senders.
        password: of the REST interface.
    """
    senders = {
        f"sender-{number}": _modality(sender.aet, sender.host, sender.port, "Echo", "Store")
        for number, sender in enumerate(orthanc.sender, 1)
    }
    committing = {
        target.name: {
            **_modality(target.aet, target.host, target.port, "StorageCommitment"),
            "UseDicomTls": target.tls is not None,
            **({"LocalAet": target.calling_aet} if target.calling_aet else {}),
        }
        for target in settings.target
        if isinstance(target, DicomTarget) and target.commitment
    }
    storage = str((places.orthanc.parent / "storage").resolve())
    return {
        "Name": "kdseg-node",
        "StorageDirectory": storage,
        "IndexDirectory": storage,
        "Plugins": list(orthanc.plugins),
        # HTTP on this machine only; SslEnabled ends Orthanc 1.10.1 and 1.12.7 with a segmentation fault
        "HttpPort": urlsplit(orthanc.url).port or 80,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {orthanc.user: password},
        "SslEnabled": False,
        "HttpsVerifyPeers": True,
        "WebDavEnabled": False,
        "ExecuteLuaEnabled": False,
        "OrthancExplorerEnabled": False,
        "DicomAet": orthanc.aet,
        "DicomPort": orthanc.port,
        "DicomCheckCalledAet": True,
        "StrictAetComparison": True,
        "DicomCheckModalityHost": True,
        **{f"DicomAlwaysAllow{what}": False for what in _MAY if what != "StorageCommitment"},
        "UnknownSopClassAccepted": False,
        "DicomModalities": {**senders, **committing},
        "DicomModalitiesInDatabase": False,
        **_tls(places, orthanc),
        # an acknowledged scan must never be recycled: the node guards the disk itself
        "MaximumStorageSize": 0,
        "MaximumPatientCount": 0,
        "OverwriteInstances": False,
        "StableAge": orthanc.stable_seconds,
        "StorageCompression": False,
        "SyncStorageArea": True,
        "SaveJobs": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False, "Ssl": False},
    }


def _modality(aet: str, host: str, port: int, *may: str) -> dict[str, Any]:
    return {"AET": aet, "Host": host, "Port": port, **{f"Allow{what}": what in may for what in _MAY}}


def _tls(places: Places, orthanc: Orthanc) -> dict[str, Any]:
    tls = orthanc.tls
    if tls is None:
        return {"DicomTlsEnabled": False}
    return {
        "DicomTlsEnabled": True,
        "DicomTlsRemoteCertificateRequired": True,
        "DicomTlsMinimumProtocolVersion": 5,
        "DicomTlsCertificate": str(places.inside(tls.certificate).resolve()),
        "DicomTlsPrivateKey": str(places.inside(tls.key).resolve()),
        "DicomTlsTrustedCertificates": str(places.inside(tls.ca).resolve()),
    }

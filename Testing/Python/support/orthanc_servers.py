"""Orthanc servers of tests: on this machine alone, and stopped again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Self

from KDSegmentatorLib.node.orthanc import Orthanc, OrthancFaultError

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "kdseg-node", "secret"
_SECONDS = 60.0


def require_orthanc() -> str:
    """Return the program, or skip the test."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None or not PLUGIN.exists():
        pytest.skip("needs Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb")
    return program


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class OrthancServer:
    """An Orthanc that runs while the block does.

    Args:
        configuration: its file; the REST interface's port and password are in it.
    """

    def __init__(self, configuration: Path) -> None:
        self.configuration = configuration
        content = json.loads(configuration.read_text())
        self.dicom_port = content["DicomPort"]
        ((user, password),) = content["RegisteredUsers"].items()
        self.rest = Orthanc(f"http://127.0.0.1:{content['HttpPort']}", user, password)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            [require_orthanc(), str(self.configuration)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        end = time.monotonic() + _SECONDS
        while True:
            with contextlib.suppress(OrthancFaultError):
                self.rest.get("/system")
                return
            assert self.process.poll() is None, "Orthanc ended; run it by hand with the same configuration"
            assert time.monotonic() < end, "Orthanc does not answer"
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def instances(self) -> list[dict[str, Any]]:
        """Return what it holds."""
        return list(self.rest.get("/instances", expand=""))

    def classes(self) -> list[str]:
        """Return the modalities of all its series, sorted."""
        return sorted(series["MainDicomTags"]["Modality"] for series in self.rest.series())

    def store(self, folder: Path) -> None:
        """Upload files, as if they had come from nobody."""
        for path in sorted(folder.rglob("*.dcm")):
            answer = self.rest.session.post(f"{self.rest.url}/instances", data=path.read_bytes(), timeout=60)
            answer.raise_for_status()


def pacs_configuration(folder: Path, more: Mapping[str, Any] | None = None) -> Path:
    """Write the configuration of an Orthanc that plays the PACS: AE title PACS, stores from anybody."""
    folder.mkdir()
    path = folder / "pacs.json"
    content = {
        "Name": "PACS",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": free_port(),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomAet": "PACS",
        "DicomPort": free_port(),
        "DicomCheckCalledAet": True,
        "StableAge": 1,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **(more or {}),
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path

"""The machine that measures, and the versions of what is measured."""

from __future__ import annotations

import platform
from importlib import metadata

from kdbench.results import Machine
from KDSegmentatorLib.engines.openvino_engine import openvino_devices
from KDSegmentatorLib.errors import EngineUnavailableError
from KDSegmentatorLib.machine.hardware import processor_name, usable_cores
from KDSegmentatorLib.version import __version__

_PACKAGES = ("openvino", "onnxruntime", "numpy", "scipy", "SimpleITK", "torch", "nnunetv2", "monai")


def describe_machine() -> Machine:
    """Return what this machine is."""
    return Machine(
        processor=processor_name(),
        logical_cores=usable_cores(),
        system=f"{platform.system()} {platform.release()}".strip(),
        abilities=tuple(sorted(_abilities())),
    )


def package_versions() -> dict[str, str]:
    """Return the versions of Python, of this library and of what it is measured with and against."""
    versions = {"Python": platform.python_version(), "kdsegmentator": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _abilities() -> frozenset[str]:
    try:
        return openvino_devices().get("cpu", frozenset())
    except EngineUnavailableError:
        return frozenset()

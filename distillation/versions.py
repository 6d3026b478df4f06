"""Versions of what trains and exports, for the provenance of weights."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata

from KDSegmentatorLib.version import __version__

TRAINING_PACKAGES = ("torch", "nnunetv2", "dynamic_network_architectures", "batchgeneratorsv2", "numpy")
"""What a training's weights depend on, beside this package and Python."""

EXPORT_PACKAGES = ("torch", "dynamic_network_architectures", "onnx")
"""What an exported network depends on, beside this package and Python."""


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, of this package and of installed others; what is not installed is left out."""
    versions = {"python": platform.python_version(), "kdsegmentator": __version__}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions

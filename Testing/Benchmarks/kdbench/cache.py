"""Where the benchmark keeps what it makes once: networks, packs, scans, compiled networks, outputs."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from kdbench.runner import ROOT
from KDSegmentatorLib.packs.locations import CACHE_VARIABLE, ENVIRONMENT_VARIABLE

_PREFIX = "made-"
_MAKERS = ("families", "generated", "scans")


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Folders, made when they are asked for."""

    folder: Path

    @property
    def models(self) -> Path:
        """Model folders of nnU-Net."""
        return self._made("models")

    @property
    def packs(self) -> Path:
        """Generated packs, installed."""
        return self._made("packs")

    @property
    def scans(self) -> Path:
        """Generated scans, and pieces of the template."""
        return self._made("scans")

    @property
    def outputs(self) -> Path:
        """Label maps."""
        return self._made("outputs")

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which ``kdseg`` finds these packs, and leaves the user's own packs and caches alone."""
        return {ENVIRONMENT_VARIABLE: str(self.packs), CACHE_VARIABLE: str(self._made("engines"))}

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def open_cache(folder: Path) -> Cache:
    """Return the cache for the code as it is now; what earlier code made is deleted, it takes gigabytes.

    Args:
        folder: for the benchmark alone.
    """
    current = folder / f"{_PREFIX}{_source_key()}"
    for other in folder.glob(f"{_PREFIX}*"):
        if other != current:
            shutil.rmtree(other, ignore_errors=True)
    return Cache(folder=current)


def _source_key() -> str:
    """Return a hash of the code that makes networks, packs and scans."""
    own = [Path(__file__).with_name(f"{name}.py") for name in _MAKERS]
    exporters = sorted((ROOT / "distillation" / "export").glob("*.py"))
    digest = hashlib.sha256()
    for path in (*own, *exporters):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]

"""What a store of packs holds, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

from KDSegmentatorLib.packs.store import PackStore

ID = "hippocampus-x1_4"


def ship(packs: PackStore, folder: Path, pack_id: str = ID) -> Path:
    """Put a pack where the packs are that come with KDSegmentator."""
    packs.shipped_folder.mkdir(exist_ok=True)
    return Path(shutil.copytree(folder, packs.shipped_folder / pack_id))


def versions(packs: PackStore) -> list[str]:
    return [pack.manifest.version for pack in packs.packs()]


def listing(packs: PackStore) -> list[str]:
    """Return everything in the user's folder but the lock."""
    found = (path.relative_to(packs.user_folder).as_posix() for path in packs.user_folder.rglob("*"))
    return sorted(name for name in found if name != ".lock")

"""``installed.json``: which version of a pack is current, and which one to go back to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.io.files import replacing, sync_listing
from KDSegmentatorLib.packs.names import MANIFEST_NAME, VERSION_PATTERN

LIST_NAME = "installed.json"

VERSION_FOLDER_PATTERN = rf"{VERSION_PATTERN}-[0-9a-f]{{12}}"
"""Name of a version's folder."""

_MAXIMUM_BYTES = 1000


@dataclass(frozen=True, kw_only=True)
class Installed:
    """Names of the versions' folders."""

    current: str
    previous: str | None


def read_installed(folder: Path) -> Installed | None:
    """Return which versions of a pack are installed, None if none is.

    Args:
        folder: the pack's folder in the store; it need not exist.

    Raises:
        PackError: the list cannot be read or is damaged, or the folder is a pack itself, copied there by hand.
    """
    path = folder / LIST_NAME
    try:
        with path.open("rb") as file:
            content = file.read(_MAXIMUM_BYTES)
    except FileNotFoundError:
        if (folder / MANIFEST_NAME).exists():
            raise PackError(
                f"{folder} was copied here by hand; move it elsewhere and install it with 'kdseg packs install'"
            ) from None
        return None
    except OSError as error:
        raise PackError(f"{path} cannot be read ({error.strerror}); check the disk and the permissions") from error
    try:
        document = json.loads(content)
        current, previous = document["current"], document["previous"]
        for name in (current,) if previous is None else (current, previous):
            # only names of our own making: a changed file must not lead out of the store
            if re.fullmatch(VERSION_FOLDER_PATTERN, name) is None:
                raise ValueError("not a version's folder")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PackError(
            f"{path} is damaged; install the pack {folder.name} again, or remove it with "
            f"'kdseg packs remove {folder.name}'"
        ) from None
    return Installed(current=current, previous=previous)


def write_installed(folder: Path, installed: Installed) -> None:
    """Write the list, in one step: whoever reads finds the old or the new one.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    with replacing(folder / LIST_NAME) as temporary:
        text = json.dumps({"current": installed.current, "previous": installed.previous})
        temporary.write_text(text, encoding="utf-8")
    sync_listing(folder)

"""Pack folders that appear whole, verified, or not at all."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.packs.files import delete_tree, new_name, replace, sync_folder
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.pack import StudentPack, open_pack, verify_pack
from KDSegmentatorLib.packs.reader import write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from KDSegmentatorLib.packs.manifest import Evaluation


@contextmanager
def new_pack_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write a pack into; at the end it is verified and takes the place of ``folder``.

    Whatever interrupts this, Ctrl-C included: ``folder`` holds the earlier pack or the new one, whole.

    Raises:
        PackError: the pack does not pass :func:`KDSegmentatorLib.packs.pack.verify_pack`.
        ManifestError: its manifest is not valid.
        ExportError: the disk is full or not writable.
    """
    temporary = folder.with_name(new_name(f".{folder.name}-"))
    previous = folder.with_name(new_name(f".{folder.name}-previous-"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        verify_pack(open_pack(temporary))
        sync_folder(temporary)
        if folder.exists():
            replace(folder, previous)
        replace(temporary, folder)
    except OSError as error:
        raise ExportError(f"cannot write the pack {folder}: {error}; free some space or export elsewhere") from error
    finally:
        if previous.exists() and not folder.exists():
            replace(previous, folder)
        delete_tree(previous)
        delete_tree(temporary)


def copy_pack(pack: StudentPack, into: Path) -> StudentPack:
    """Copy a pack into a folder of packs; an earlier one of the same id there is replaced.

    Raises:
        PackError: the pack is damaged.
        ExportError: the disk is full or not writable.
    """
    target = into / pack.manifest.id
    with new_pack_folder(target) as temporary:
        for name in (MANIFEST_NAME, *pack.manifest.files):
            shutil.copyfile(pack.folder / name, temporary / name)
    return open_pack(target)


def with_evaluation(pack: StudentPack, evaluation: Evaluation) -> StudentPack:
    """Write an evaluation into a pack's manifest; the pack's other files stay as they are.

    Raises:
        ManifestError: the evaluation does not fit the pack.
        ExportError: the disk is full or not writable.
    """
    path = pack.folder / MANIFEST_NAME
    text = write_manifest(dataclasses.replace(pack.manifest, evaluation=evaluation))
    temporary = path.with_name(new_name(f".{MANIFEST_NAME}-"))
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        replace(temporary, path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error}; free some space") from error
    finally:
        temporary.unlink(missing_ok=True)
    return open_pack(pack.folder)

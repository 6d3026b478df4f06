"""Pack folders that appear whole, verified, or not at all."""

from __future__ import annotations

import dataclasses
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.files import replace
from KDSegmentatorLib.packs.files import delete_tree, new_name, sync_folder
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.pack import StudentPack, describe_file, open_pack, verify_pack
from KDSegmentatorLib.packs.reader import write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from KDSegmentatorLib.packs.manifest import Evaluation, Expected, FieldOfView, ReducedPrecision


@contextmanager
def new_pack_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write a pack into; at the end it is verified and takes the place of ``folder``.

    A failure or Ctrl-C leaves the earlier pack or the new one, whole. So does a kill or a power cut, but for the moment
    between the two renames at the end: then ``folder`` is missing, the earlier pack lies whole beside it under a hidden
    name, and the next start of this, or :func:`restore_interrupted`, puts it back. What a killed process had written of
    the new pack stays in a hidden folder.

    Raises:
        PackError: the pack does not pass :func:`KDSegmentatorLib.packs.pack.verify_pack`.
        ManifestError: its manifest is not valid.
        ExportError: the disk is full or not writable.
    """
    temporary = folder.with_name(new_name(f".{folder.name}-"))
    previous = folder.with_name(new_name(_previous_prefix(folder)))
    try:
        restore_interrupted(folder)
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


def restore_interrupted(folder: Path) -> None:
    """Put a pack back that a killed process had moved away to replace it; earlier ones that are not needed are deleted.

    Args:
        folder: where the pack belongs; nothing happens if no process was killed.

    Raises:
        OSError: it cannot be moved.
    """
    name = re.compile(re.escape(_previous_prefix(folder)) + "[0-9a-f]{12}")
    left = [path for path in folder.parent.glob(".*") if name.fullmatch(path.name)] if folder.parent.is_dir() else []
    for path in sorted(left, key=lambda path: path.stat().st_mtime, reverse=True):
        if folder.exists():
            delete_tree(path)
        else:
            replace(path, folder)


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


def with_evaluation(
    pack: StudentPack,
    evaluation: Evaluation,
    reduced: Sequence[ReducedPrecision] | None = None,
    bodies: Mapping[str, bytes] | None = None,
) -> StudentPack:
    """Write into a pack what was measured; bodies that no reduced precision uses any more are removed.

    Args:
        pack: the pack.
        evaluation: its accuracy.
        reduced: the reduced precisions that are good enough; None leaves them as they are.
        bodies: file name to content of the networks among them that the pack does not have yet, or has otherwise.

    Raises:
        ManifestError: what was measured does not fit the pack.
        PackError: the pack is damaged, or a network is not one that a pack may hold.
        ExportError: the disk is full or not writable.
    """
    bodies = bodies or {}
    before = pack.manifest.network
    network = before if reduced is None else dataclasses.replace(before, reduced_precisions=tuple(reduced))
    used = {network.body, *(each.body for each in network.reduced_precisions)}
    dropped = {each.body for each in before.reduced_precisions} - used
    kept = [name for name in pack.manifest.files if name not in dropped and name not in bodies]
    with new_pack_folder(pack.folder) as temporary:
        for name in kept:
            shutil.copyfile(pack.folder / name, temporary / name)
        for name, body in bodies.items():
            (temporary / name).write_bytes(body)
        files = {name: pack.manifest.files[name] for name in kept}
        files |= {name: describe_file(temporary / name) for name in bodies}
        manifest = dataclasses.replace(pack.manifest, network=network, evaluation=evaluation, files=files)
        (temporary / MANIFEST_NAME).write_text(write_manifest(manifest), encoding="utf-8", newline="\n")
    return open_pack(pack.folder)


def with_training_set(pack: StudentPack, field_of_view: FieldOfView, expected: Expected) -> StudentPack:
    """Write into a pack what the cases look like that it was trained on; its other files stay as they are.

    Raises:
        PackError: the pack is damaged.
        ExportError: the disk is full or not writable.
    """
    with new_pack_folder(pack.folder) as temporary:
        for name in pack.manifest.files:
            shutil.copyfile(pack.folder / name, temporary / name)
        manifest = dataclasses.replace(pack.manifest, field_of_view=field_of_view, expected=expected)
        (temporary / MANIFEST_NAME).write_text(write_manifest(manifest), encoding="utf-8", newline="\n")
    return open_pack(pack.folder)


def _previous_prefix(folder: Path) -> str:
    """Return how the names start that an earlier pack has while the new one takes its place."""
    return f".{folder.name}-previous-"

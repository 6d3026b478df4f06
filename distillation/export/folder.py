"""Pack folders that appear whole, verified, or not at all."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.files import atomic_folder
from KDSegmentatorLib.packs.names import MANIFEST_NAME
from KDSegmentatorLib.packs.pack import StudentPack, describe_file, open_pack, verify_pack
from KDSegmentatorLib.packs.reader import write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from KDSegmentatorLib.packs.manifest import Evaluation, ReducedPrecision


@contextmanager
def new_pack_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write a pack into; at the end it is verified and takes the place of ``folder``.

    See :func:`~KDSegmentatorLib.io.files.atomic_folder` for what a failure or a kill leaves.

    Raises:
        PackError: the pack does not pass :func:`KDSegmentatorLib.packs.pack.verify_pack`.
        ManifestError: its manifest is not valid.
        ExportError: the disk is full or not writable.
    """
    try:
        with atomic_folder(folder) as temporary:
            yield temporary
            verify_pack(open_pack(temporary))
    except OSError as error:
        raise ExportError(f"cannot write the pack {folder}: {error}; free some space or export elsewhere") from error


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

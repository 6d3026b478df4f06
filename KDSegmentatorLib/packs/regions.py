"""Chained packs: from a pack to the one that finds its region (:class:`KDSegmentatorLib.packs.manifest.Region`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from KDSegmentatorLib.errors import KDSegmentatorError, PackError
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.names import version_key
from KDSegmentatorLib.packs.pack import StudentPack

FindPack = Callable[[str], StudentPack | None]
"""From an id to the pack; None if there is none, an error if it is damaged (``PackStore.find``)."""


def region_pack(pack: StudentPack, find: FindPack) -> StudentPack | None:
    """Return the pack that is run before another one; None if that one sees the whole volume.

    Args:
        pack: the later one.
        find: where packs are looked up, for example :meth:`KDSegmentatorLib.packs.store.PackStore.find`.

    Raises:
        PackError: the earlier pack is missing, damaged, too old, of another modality, or has a region itself; the
            message says which pack to install.
    """
    manifest, region = pack.manifest, pack.manifest.region
    if region is None:
        return None
    needs = f"{manifest.id} needs {region_text(manifest)} to be run before it"
    remedy = f"install {region.pack} {region.minimum_version} or later"
    try:
        earlier = find(region.pack)
    except KDSegmentatorError as error:
        raise PackError(f"{needs}, and that pack cannot be used: {error}. To go on, {remedy}") from error
    if earlier is None:
        raise PackError(f"{needs}, and that pack is not installed; {remedy}")
    found = earlier.manifest
    if version_key(found.version) < version_key(region.minimum_version):
        raise PackError(f"{needs}, and version {found.version} is installed; {remedy}")
    if found.region is not None:
        raise PackError(
            f"{needs}, and that pack has an earlier stage itself ({found.region.pack}). Chains have two packs; install "
            f"a version of {region.pack} without an earlier stage, or a version of {manifest.id} that names another one"
        )
    if found.modality != manifest.modality:
        raise PackError(
            f"{needs}, and that pack is for {found.modality} where {manifest.id} is for {manifest.modality}; install a "
            "version of either that fits the other one"
        )
    return earlier


def region_packs(packs: Iterable[StudentPack], find: FindPack) -> dict[str, StudentPack]:
    """Return, by the id of each pack that has an earlier stage, the pack that is run before it.

    Raises:
        PackError: see :func:`region_pack`.
    """
    return {pack.manifest.id: earlier for pack in packs if (earlier := region_pack(pack, find)) is not None}


def region_problem(pack: StudentPack, find: FindPack) -> str | None:
    """Return why a pack cannot be run for want of its earlier stage, None if it can; see :func:`region_pack`."""
    try:
        region_pack(pack, find)
    except PackError as error:
        return str(error)
    return None


def dependents(pack_id: str, packs: Iterable[StudentPack]) -> list[StudentPack]:
    """Return the packs that a pack is run before."""
    return [pack for pack in packs if pack.manifest.region is not None and pack.manifest.region.pack == pack_id]


def region_text(manifest: Manifest) -> str:
    """Return which pack is run before: ``brain-extraction-x1_4 1.0.0 or later``; empty if there is none."""
    region = manifest.region
    return "" if region is None else f"{region.pack} {region.minimum_version} or later"

"""Families of packs, and the way from a task and a size to a pack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from KDSegmentatorLib.arguments import described, meant
from KDSegmentatorLib.errors import InvalidSettingsError, PackError
from KDSegmentatorLib.options import AUTOMATIC
from KDSegmentatorLib.packs.names import divisor, pack_id
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.regions import region_pack
from KDSegmentatorLib.packs.store import DamagedPack, PackStore


@dataclass(frozen=True, kw_only=True)
class Family:
    """The packs that share a task, from x1 (the teacher) down."""

    task: str
    packs: tuple[StudentPack, ...]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a task and a size leave to choose from.

    Attributes:
        packs: the pack of a fixed size, or all usable ones of the task if the size is ``auto``.
        automatic: whether it is.
        damaged: packs of the task that cannot be chosen: also those without a usable pack for their earlier stage.
        region_packs: by the id of a pack, the one that is run before it, if there is one.
    """

    packs: Family
    automatic: bool
    damaged: tuple[DamagedPack, ...] = ()
    region_packs: Mapping[str, StudentPack] = field(default_factory=dict)


def families(packs: Iterable[StudentPack]) -> list[Family]:
    """Return the families, sorted by task."""
    by_task: dict[str, list[StudentPack]] = {}
    for pack in packs:
        by_task.setdefault(pack.manifest.task, []).append(pack)
    return [
        Family(task=task, packs=tuple(sorted(members, key=lambda pack: divisor(pack.manifest.size))))
        for task, members in sorted(by_task.items())
    ]


def find(packs: Iterable[StudentPack], task: str, size: str) -> StudentPack:
    """Return the pack of a task and size.

    Args:
        packs: where to look, for example :meth:`KDSegmentatorLib.packs.store.PackStore.packs`.
        task: for example ``hippocampus``.
        size: for example ``x1/4``.

    Raises:
        PackError: there is none; the message lists what there is.
    """
    known = families(packs)
    family = next((family for family in known if family.task == task), None)
    if family is None:
        named = next((pack.manifest for each in known for pack in each.packs if pack.manifest.id == task), None)
        if named is not None:
            raise PackError(
                f"{task!r} is the id of a pack, not a task; give the task {named.task!r} and the size {named.size!r}"
            )
        tasks = [family.task for family in known]
        raise PackError(
            f"there is no pack for the task {task!r}{meant(task, tasks)}; tasks: "
            f"{', '.join(tasks) or 'none, no pack is installed'}. Install one with 'kdseg packs install'"
        )
    for pack in family.packs:
        if pack.manifest.size == size:
            return pack
    sizes = ", ".join(pack.manifest.size for pack in family.packs)
    raise PackError(f"there is no {task} pack of the size {size!r}; sizes: {sizes}")


def select(store: PackStore, task: str, size: str = "") -> Selection:
    """Return what a task and a size leave to choose from.

    Args:
        store: where packs are looked up.
        task: for example ``hippocampus``.
        size: for example ``x1/4``; empty for the recommended one, or ``auto``.

    Raises:
        InvalidSettingsError: the task is no text.
        PackError: there is no such pack, it is damaged, or so is the pack of its earlier stage; with
            ``auto``, all of the task are.
        ManifestError: its manifest is not valid.
    """
    if not isinstance(task, str):
        raise InvalidSettingsError(f"the task must be a name, such as 'hippocampus', not {described(task)}")
    task = task.strip().casefold().replace("_", "-").replace(" ", "-")
    fixed = size not in ("", AUTOMATIC)
    if fixed and (pack := store.find(pack_id(task, size))) is not None:
        earlier = region_pack(pack, store.find)
        return Selection(
            packs=Family(task=task, packs=(pack,)),
            automatic=False,
            region_packs={} if earlier is None else {pack.manifest.id: earlier},
        )
    packs, damaged = store.all_packs()
    family = next((family for family in families(packs) if family.task == task), None)
    of_task = tuple(pack for pack in damaged if pack.id.rpartition("-")[0] == task)
    if fixed or (family is None and not of_task):
        return Selection(packs=Family(task=task, packs=(find(packs, task, size),)), automatic=False)
    usable: list[StudentPack] = []
    region_packs: dict[str, StudentPack] = {}
    left_out = list(of_task)
    for pack in () if family is None else family.packs:
        try:
            earlier = region_pack(pack, store.find)
        except PackError as error:
            shipped = store.is_shipped(pack.manifest.id)
            left_out.append(DamagedPack(id=pack.manifest.id, folder=pack.folder, shipped=shipped, error=error))
            continue
        usable.append(pack)
        if earlier is not None:
            region_packs[pack.manifest.id] = earlier
    if not usable:
        raise left_out[0].error
    return Selection(
        packs=Family(task=task, packs=tuple(usable) if size == AUTOMATIC else (recommended(usable),)),
        automatic=size == AUTOMATIC,
        damaged=tuple(left_out),
        region_packs=region_packs,
    )


def recommended(packs: Sequence[StudentPack]) -> StudentPack:
    """Return the pack of a family that is run if nobody names a size: the one that says so, or the smallest.

    Args:
        packs: from x1 (the teacher) down, at least one.
    """
    return next((pack for pack in packs if pack.manifest.recommended), packs[-1])

"""Families of packs, and the way from a task and a size to a pack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from KDSegmentatorLib.arguments import meant
from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.rules import divisor


@dataclass(frozen=True, kw_only=True)
class Family:
    """The packs that share a task, from x1 (the teacher) down."""

    task: str
    packs: tuple[StudentPack, ...]


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

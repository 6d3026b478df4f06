from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs.catalogue import families, find
from KDSegmentatorLib.packs.pack import StudentPack, open_pack


@pytest.fixture
def packs(build_pack: Callable[..., Path], kit: object) -> list[StudentPack]:
    def build(task: str, size: str, alpha: float) -> StudentPack:
        network = kit.document()["network"] | {"alpha": alpha}  # type: ignore[attr-defined]
        return open_pack(build_pack(task=task, size=size, id=f"{task}-{size.replace('/', '_')}", network=network))

    return [
        build("liver-ct", "x1/4", 0.25),
        build("hippocampus", "x1/16", 0.0625),
        build("hippocampus", "x1/4", 0.25),
        build("hippocampus", "x1", 1),
    ]


def test_families_go_from_the_teacher_down(packs: list[StudentPack]) -> None:
    found = families(packs)
    assert [family.task for family in found] == ["hippocampus", "liver-ct"]
    assert [pack.manifest.size for pack in found[0].packs] == ["x1", "x1/4", "x1/16"]
    assert families([]) == []


def test_finding_a_pack(packs: list[StudentPack]) -> None:
    assert find(packs, "hippocampus", "x1/4") is packs[2]
    with pytest.raises(PackError, match="no pack for the task 'brain'; tasks: hippocampus, liver-ct"):
        find(packs, "brain", "x1")
    with pytest.raises(PackError, match="no hippocampus pack of the size 'x1/2'; sizes: x1, x1/4, x1/16"):
        find(iter(packs), "hippocampus", "x1/2")
    with pytest.raises(PackError, match="no pack is installed"):
        find([], "hippocampus", "x1")
    pack = packs[2].manifest
    with pytest.raises(PackError, match=f"'{pack.id}' is the id of a pack.*'hippocampus' and the size 'x1/4'"):
        find(packs, pack.id, "x1")

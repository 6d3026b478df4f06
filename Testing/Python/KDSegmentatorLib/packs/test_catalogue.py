from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import ManifestError, PackError
from KDSegmentatorLib.options import AUTOMATIC
from KDSegmentatorLib.packs.catalogue import families, find, select
from KDSegmentatorLib.packs.pack import StudentPack, open_pack
from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import ALPHAS, build_size


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


@pytest.fixture
def store(tmp_path: Path) -> PackStore:
    """Return a store with two tasks, one of which has all sizes."""
    shipped = tmp_path / "shipped"
    for size in ALPHAS:
        build_size(shipped / f"generated-{size.replace('/', '_')}", size)
    build_size(shipped / "other-x1_4", "x1/4", task="other")
    return PackStore(tmp_path / "user", shipped)


def damage(store: PackStore, size: str) -> None:
    (store.shipped_folder / f"generated-{size.replace('/', '_')}" / "manifest.json").write_text("{}", encoding="utf-8")


def test_an_open_size_leaves_all_of_the_task_the_largest_first(store: PackStore) -> None:
    found = select(store, "generated", AUTOMATIC)
    assert found.automatic
    assert [pack.manifest.size for pack in found.packs.packs] == ["x1", "x1/2", "x1/4"]
    assert found.damaged == ()


def test_without_a_size_the_recommended_one_is_taken_whatever_the_machine(store: PackStore) -> None:
    assert [pack.manifest.size for pack in select(store, "generated").packs.packs] == ["x1/4"]
    damage(store, "x1/4")
    found = select(store, "Generated")
    assert ([pack.manifest.size for pack in found.packs.packs], found.automatic) == (["x1/2"], False)
    assert [pack.id for pack in found.damaged] == ["generated-x1_4"]


def test_a_fixed_size_is_that_one(store: PackStore) -> None:
    found = select(store, "generated", "x1/2")
    assert not found.automatic
    assert [pack.manifest.id for pack in found.packs.packs] == ["generated-x1_2"]


def test_damaged_packs_are_left_out_and_named(store: PackStore) -> None:
    damage(store, "x1")
    found = select(store, "generated", AUTOMATIC)
    assert [pack.id for pack in found.damaged] == ["generated-x1"]
    assert [pack.manifest.size for pack in found.packs.packs] == ["x1/2", "x1/4"]
    assert select(store, "generated", "x1/2").damaged == ()
    assert select(store, "other").damaged == ()


def test_a_damaged_pack_that_is_asked_for_says_what_is_wrong_with_it(store: PackStore) -> None:
    damage(store, "x1")
    with pytest.raises(ManifestError):
        select(store, "generated", "x1")


def test_a_task_with_nothing_but_damaged_packs(store: PackStore) -> None:
    for size in ALPHAS:
        damage(store, size)
    with pytest.raises(ManifestError):
        select(store, "generated")


@pytest.mark.parametrize(
    ("task", "size", "said"),
    [
        ("spleen", AUTOMATIC, "there is no pack for the task 'spleen'; tasks: generated, other"),
        ("generated", "x1/8", "there is no generated pack of the size 'x1/8'; sizes: x1, x1/2, x1/4"),
    ],
)
def test_no_such_pack(store: PackStore, task: str, size: str, said: str) -> None:
    with pytest.raises(PackError, match=said):
        select(store, task, size)

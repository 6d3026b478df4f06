"""The benchmark, tiny: nothing here says how long anything takes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "Benchmarks"))

from kdbench.cache import Cache
from kdbench.families import FamilyPlan
from kdbench.setting import Scope, Setting
from KDSegmentatorLib.packs.pack import StudentPack

# more features in the teacher than labels in the largest head, and fewer in x1/4: the head is applied early and late
BRAIN = FamilyPlan(
    task="tiny-brain",
    title="Tiny brain",
    modality="MR",
    outputs=20,
    patch_size=(24, 16, 16),
    spacing=(1.0, 1.0, 1.0),
    features=(32, 64),
    blocks=(1, 1),
    kernels=((3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (2, 2, 2)),
    parameters={"x1/4": 19_060},
)
ABDOMEN = replace(
    BRAIN,
    task="tiny-abdomen",
    modality="CT",
    outputs=4,
    patch_size=(16, 24, 24),
    spacing=(3.0, 1.0, 1.0),
    parameters={},
)


class TinySetting(Setting):
    """A setting whose brain is as small as its other scans, and which knows one shipped pack."""

    def stripped_brain(self) -> Path:
        return self.brain_scan()

    def shipped_packs(self) -> list[StudentPack]:
        return [pack for pack in super().shipped_packs() if pack.manifest.size == "x1/4"][:1]


@pytest.fixture(scope="session")
def family() -> FamilyPlan:
    return BRAIN


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    scope = Scope(
        brain=BRAIN,
        brain_scan=(16, 16, 24),
        abdomen=ABDOMEN,
        ct_scans=((32, 32, 30), (40, 40, 36)),
        ct_spacing=(1.0, 1.0, 1.5),
        classes=(14, 20),
        structures=3,
        patch=(16, 24, 16),
        loss_classes=(3, 20),
        template_boxes={"one window": (36, 50, 36)},
        matrix=64,
        copied=1 << 16,
        seconds=0.0,
        repeats=2,
    )
    cache = Cache(folder=tmp_path_factory.mktemp("benchmark"))
    return TinySetting(
        cache=cache, rounds=1, long_rounds=1, stock_rounds=1, sizes=("x1/4",), warm_up=False, scope=scope, say=str
    )

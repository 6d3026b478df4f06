"""Our surface metrics beside MONAI's."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.runner import Subject
from kdbench.setting import Setting
from KDSegmentatorLib.packs.manifest import SurfaceKind

_SURFACES: tuple[SurfaceKind, ...] = ("voxels", "subvoxel")


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield a comparison for each kind of surface; MONAI and ours take turns inside of it."""
    size, labels = setting.scope.brain_scan, setting.scope.structures
    yield [
        Subject(
            name=f"NSD and HD95, {surface}",
            function="kdbench.surface_distance:compare",
            arguments={"size": size, "labels": labels, "surface": surface},
            labels={"surface": surface},
            facts={"x": size[0], "y": size[1], "z": size[2], "labels": labels},
            rounds=setting.rounds,
        )
        for surface in _SURFACES
    ]

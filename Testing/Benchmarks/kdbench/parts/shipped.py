"""The packs that come with KDSegmentator, on pieces of a real T1 volume."""

from __future__ import annotations

import math
from collections.abc import Iterator

from kdbench.parts.ways import segmenting, ways
from kdbench.report.markdown import shape
from kdbench.runner import Subject
from kdbench.setting import Setting
from KDSegmentatorLib.packs.locations import ENVIRONMENT_VARIABLE


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield the runs of every pack on every piece."""
    environment = {**setting.cache.environment, ENVIRONMENT_VARIABLE: str(setting.no_packs)}
    subjects = []
    for scan_name, size in setting.scope.template_boxes.items():
        scan = setting.template_box(size)
        for pack in setting.shipped_packs():
            for way in ways(pack):
                subjects.append(
                    segmenting(
                        setting,
                        f"{pack.manifest.id}, {scan_name}, {way.title}",
                        pack,
                        scan,
                        way,
                        environment=environment,
                        facts={"voxels": math.prod(size)},
                        options=["--unchecked"],  # the larger pieces are beyond the packs' field of view
                        task=pack.manifest.task,
                        scan_name=scan_name,
                        scan_size=shape(size),
                    )
                )
    yield subjects

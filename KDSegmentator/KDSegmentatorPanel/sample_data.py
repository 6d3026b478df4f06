"""The samples that come with the extension, in Slicer's Sample Data module; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from KDSegmentatorPanel.translation import tr as _

CATEGORY = "KDSegmentator"
SAMPLE = "KDSegmentator hippocampus"


class SampleFile(NamedTuple):
    """A file of a sample: its name in ``Resources/Samples``, how Slicer loads it, and its checksum."""

    name: str
    kind: str
    checksum: str


SAMPLES: dict[str, tuple[str, tuple[SampleFile, ...]]] = {
    SAMPLE: (
        "Icons/KDSegmentator-hippocampus.png",
        (
            SampleFile(
                "KDSegmentator-hippocampus.nrrd",
                "VolumeFile",
                "SHA256:dd45dd1d8878f42525419da649130b93bf807b706028c40e992c6be72a25e14c",
            ),
            SampleFile(
                "KDSegmentator-hippocampus-reference.seg.nrrd",
                "SegmentationFile",
                "SHA256:402f09020e39b97da2fbed4fe917a9e30faa3d142b4259ab9a1fcb8d09346260",
            ),
        ),
    ),
    "KDSegmentator brain": (
        "Tasks/brain-t1.png",
        (
            SampleFile(
                "KDSegmentator-brain.nrrd",
                "VolumeFile",
                "SHA256:c58d4246461e8744e111b8e0b4ba8379eff688db838b9aa6821e9876adc954f5",
            ),
        ),
    ),
}
"""By name: thumbnail in ``Resources``, and files."""


def register_sample_data(resources: Path) -> None:
    """Add the samples; ``resources`` is the module's folder of that name."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # since Slicer 5.12
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("KDSegmentator"))
    for name, (thumbnail, files) in SAMPLES.items():
        logic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            thumbnailFileName=str(resources / thumbnail),
            uris=[(resources / "Samples" / file.name).as_uri() for file in files],
            fileNames=[file.name for file in files],
            nodeNames=[file.name.partition(".")[0] for file in files],
            loadFileTypes=[file.kind for file in files],
            checksums=[file.checksum for file in files],
        )

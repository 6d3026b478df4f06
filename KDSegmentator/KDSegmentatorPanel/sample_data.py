"""The sample that comes with the extension, in Slicer's Sample Data module; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from KDSegmentatorPanel.translation import tr as _

CATEGORY = "KDSegmentator"
SAMPLE = "KDSegmentator hippocampus"

_FILES = {
    "KDSegmentator-hippocampus.nrrd": (
        "VolumeFile",
        "SHA256:dd45dd1d8878f42525419da649130b93bf807b706028c40e992c6be72a25e14c",
    ),
    "KDSegmentator-hippocampus-reference.seg.nrrd": (
        "SegmentationFile",
        "SHA256:402f09020e39b97da2fbed4fe917a9e30faa3d142b4259ab9a1fcb8d09346260",
    ),
}
"""How Slicer loads each file, and its checksum."""


def register_sample_data(resources: Path) -> None:
    """Add the sample; ``resources`` is the module's folder of that name."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # since Slicer 5.12
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("KDSegmentator"))
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE,
        thumbnailFileName=str(resources / "Icons" / "KDSegmentator-hippocampus.png"),
        uris=[(resources / "Samples" / name).as_uri() for name in _FILES],
        fileNames=list(_FILES),
        nodeNames=[name.partition(".")[0] for name in _FILES],
        loadFileTypes=[kind for kind, _checksum in _FILES.values()],
        checksums=[checksum for _kind, checksum in _FILES.values()],
    )

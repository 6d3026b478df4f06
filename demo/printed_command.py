"""The command line that a demo prints, so that its result can be made again without it."""

from __future__ import annotations

import sys
from pathlib import Path

from KDSegmentatorLib.inference.segmentation import RunRecord


def kdseg_command(scan: Path, record: RunRecord) -> str:
    """Return the ``kdseg`` command that segments a scan with the pack that a record names."""
    program = Path(sys.executable).parent / "kdseg"
    program = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    return f"{program} segment {scan} labels.nii.gz --pack {record.task} --size {record.size} --overlay overlay.png"

"""DICOM: series in, results out, with pydicom and highdicom, which the extra ``dicom`` brings.

Reading starts with :func:`KDSegmentatorLib.dicom.series.read_series`.
"""

from __future__ import annotations

from importlib.util import find_spec

from KDSegmentatorLib.errors import MissingPackageError

for _package in ("pydicom", "highdicom"):
    if find_spec(_package) is None:
        raise MissingPackageError(
            f"DICOM needs the package {_package}, which is not installed here: pip install 'kdsegmentator[dicom]'"
        )

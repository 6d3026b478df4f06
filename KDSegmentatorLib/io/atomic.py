"""The file forms of :mod:`KDSegmentatorLib.io.files`, under their earlier name until all regions import that."""

from KDSegmentatorLib.io.files import atomic_output, check_output

__all__ = ["atomic_output", "check_output"]

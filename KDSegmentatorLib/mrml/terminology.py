"""Coded terminology as Slicer stores it: one string for each segment."""

from __future__ import annotations

from KDSegmentatorLib.packs.manifest import Code, Terminology

CATEGORY_CONTEXT = "Segmentation category and type - DICOM master list"
"""Slicer's list of the categories and types of DICOM CID 7150 and 7151."""

REGION_CONTEXT = "Anatomic codes - DICOM master list"
"""Slicer's list of the anatomic regions of DICOM."""

_RESERVED = str.maketrans(dict.fromkeys("~^|\r\n\t", " "))


def terminology_entry(terminology: Terminology) -> str:
    """Return the string that Slicer's Terminologies module reads (``DeserializeTerminologyEntry``).

    Its seven parts, separated by ``~``: name of the category list, category, type, type modifier, name of the region
    list, region, region modifier; each code is scheme, value and meaning separated by ``^``. The separators of this
    string and of .seg.nrrd files become spaces in the codes.
    """
    return "~".join(
        (
            CATEGORY_CONTEXT,
            _code(terminology.category),
            _code(terminology.type),
            _code(terminology.type_modifier),
            REGION_CONTEXT,
            _code(terminology.region),
            _code(terminology.region_modifier),
        )
    )


def _code(code: Code | None) -> str:
    if code is None:
        return "^^"
    return "^".join(part.translate(_RESERVED).strip() for part in (code.scheme, code.value, code.meaning))

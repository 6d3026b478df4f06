"""Labels for tests that need no pack."""

from __future__ import annotations

from KDSegmentatorLib.packs.manifest import Code, Label, Terminology


def label(value: int, name: str, color: tuple[int, int, int] = (230, 60, 40)) -> Label:
    """Return a label with some coded meaning."""
    return Label(
        value=value,
        name=name,
        color=color,
        terminology=Terminology(
            category=Code(scheme="SCT", value="123037004", meaning="Anatomical Structure"),
            type=Code(scheme="SCT", value="10200004", meaning="Liver"),
        ),
    )

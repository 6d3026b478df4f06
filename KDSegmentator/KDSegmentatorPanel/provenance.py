"""How a segmentation of the scene came about, as the Result box says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from KDSegmentatorLib.mrml.nodes import ATTRIBUTE_PREFIX
from KDSegmentatorPanel.translation import tr as _

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode


def provenance_text(node: vtkMRMLSegmentationNode | None) -> str:
    """Return pack, engine, time and warnings of a segmentation; empty if it was not made by KDSegmentator."""
    if node is None or node.GetAttribute(f"{ATTRIBUTE_PREFIX}pack_id") is None:
        return ""

    def value(name: str) -> str:
        return str(node.GetAttribute(ATTRIBUTE_PREFIX + name) or "?")

    text = _(
        "{pack} {version} (SHA-256 {hash}…) · {engine} {precision} on {device} · {seconds} s. "
        "Not for diagnosis: check every result."
    ).format(
        pack=value("pack_id"),
        version=value("pack_version"),
        hash=value("pack_sha256")[:12],
        engine=value("engine"),
        precision=value("precision"),
        device=value("device"),
        seconds=value("seconds.total"),
    )
    warnings = node.GetAttribute(f"{ATTRIBUTE_PREFIX}warnings")
    return _("{text} Warnings: {warnings}").format(text=text, warnings=warnings) if warnings else text

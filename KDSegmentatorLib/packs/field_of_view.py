"""The field of view that a pack was trained on, in words."""

from __future__ import annotations

from collections.abc import Sequence

from KDSegmentatorLib.packs.manifest import Manifest

_AXES = {"LR": "left to right", "PA": "front to back", "SI": "head to foot"}


def field_of_view_text(manifest: Manifest) -> str:
    """Return how large the training images were: ``31 to 43 mm left to right, ...``; empty if that is not known."""
    trained = manifest.field_of_view
    if trained is None:
        return ""
    ranges = [
        f"{low:.0f} to {high:.0f}" if round(low) < round(high) else f"{low:.0f}"
        for low, high in zip(trained.smallest, trained.largest, strict=True)
    ]
    return lengths_text(manifest.preprocessing.axis_codes, ranges)


def lengths_text(axis_codes: str, lengths: Sequence[str]) -> str:
    """Return lengths (in mm, as text) along some axis codes, or some of them, in the words that everybody uses."""
    words = [next(name for letters, name in _AXES.items() if code in letters) for code in axis_codes]
    return ", ".join(f"{length} mm {name}" for length, name in zip(lengths, words, strict=True))

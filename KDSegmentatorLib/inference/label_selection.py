"""From the names that a user writes to the labels of a pack."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Label, Manifest

_NAMES_A_LINE = 4


def check_options(manifest: Manifest, options: RunOptions) -> None:
    """Check what is asked of a pack, before any work is done.

    Raises:
        InvalidSettingsError: a wanted label is not in the pack, or mirroring is asked for but was not trained.
    """
    select_labels(manifest, options.labels)
    select_labels(manifest, options.probabilities)
    if options.mirroring and not manifest.windows.mirroring_axes:
        raise InvalidSettingsError(f"{manifest.id} was trained without mirroring; run it without --mirroring")


def select_labels(manifest: Manifest, wanted: Sequence[str]) -> tuple[Label, ...]:
    """Return the labels with the wanted names (upper or lower case) or values, in the pack's order; all of none.

    Raises:
        InvalidSettingsError: a name or value is not in the pack.
    """
    if not wanted:
        return manifest.labels
    by_key = {str(label.value): label for label in manifest.labels}
    by_key |= {_plain(label.name): label for label in manifest.labels}
    chosen = set()
    for key in wanted:
        found = by_key.get(_plain(key))
        if found is None:
            raise InvalidSettingsError(f"{manifest.id} has no label {key!r}{_meant(key, manifest)}")
        chosen.add(found.value)
    return tuple(label for label in manifest.labels if label.value in chosen)


def _plain(name: str) -> str:
    """Return a name as it is compared: ``Left_thalamus`` is ``left-thalamus``, and ``Brainstem`` is ``Brain stem``."""
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")


def _meant(key: str, manifest: Manifest) -> str:
    """Return what to write instead of a wrong name: close names, or the pack's labels a few to a line."""
    names = {_plain(label.name): label.name for label in manifest.labels}
    parts = [name for name in names if _plain(key) in name]
    close = parts or get_close_matches(_plain(key), names, n=2)
    if close:
        meant = " or ".join(names[name] for name in close[:3])
        return f" (do you mean {meant}?); 'kdseg packs show {manifest.id}' lists all {len(names)}"
    known = [f"{label.name} ({label.value})" for label in manifest.labels]
    lines = [", ".join(known[start : start + _NAMES_A_LINE]) for start in range(0, len(known), _NAMES_A_LINE)]
    return "; it has: " + ",\n  ".join(lines)

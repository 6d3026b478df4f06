"""From the names that a user writes to the labels of a pack."""

from __future__ import annotations

from collections.abc import Sequence

from KDSegmentatorLib.arguments import close_names, plain
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Label, Manifest

_MOST_LISTED = 8
"""More names than these are left to ``kdseg packs show``."""


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
    by_key |= {plain(label.name): label for label in manifest.labels}
    chosen = set()
    for key in wanted:
        found = by_key.get(plain(key))
        if found is None:
            raise InvalidSettingsError(f"{manifest.id} has no label {key!r}{_meant(key, manifest)}")
        chosen.add(found.value)
    return tuple(label for label in manifest.labels if label.value in chosen)


def _meant(key: str, manifest: Manifest) -> str:
    """Return what to write instead of a wrong name: close names, or all if there are few."""
    close = close_names(key, [label.name for label in manifest.labels])
    show = f"'kdseg packs show {manifest.id}' lists all {len(manifest.labels)}"
    if close:
        return f" (do you mean {' or '.join(close)}?); {show}"
    if len(manifest.labels) > _MOST_LISTED:
        first = ", ".join(f"{label.name} ({label.value})" for label in manifest.labels[:_MOST_LISTED])
        return f"; it has {first}, ...; {show}"
    return f"; it has: {', '.join(f'{label.name} ({label.value})' for label in manifest.labels)}"

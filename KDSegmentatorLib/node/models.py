"""The packs that a node segments with: which one a rule takes at this moment, and segmenters that are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.node.settings import Rule, Settings
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter


def problems(settings: Settings, store: PackStore) -> list[str]:
    """Return what is wrong with the packs of the rules, every file of them checked; nothing if all is well.

    Args:
        settings: with the rules.
        store: the node's packs.
    """
    found: list[str] = []
    for rule in settings.rule:
        try:
            for pack in store.packs():
                if pack.manifest.task == rule.task and rule.size in ("", "auto", pack.manifest.size):
                    store.verify(pack.manifest.id)
                    break
            else:
                size = f" of the size {rule.size}" if rule.size else ""
                found.append(
                    f"rule {rule.name}: there is no pack of the task {rule.task!r}{size}; 'kdseg-node models install "
                    "FILE.kdpack' adds one"
                )
        except KDSegmentatorError as error:
            found.append(f"rule {rule.name}: {error}")
    return found


class Segmenters:
    """The segmenter of the last job, with its engine, kept while the next job takes the same pack.

    Args:
        store: the node's packs. A pack that is installed or rolled back counts from the next job on.
    """

    def __init__(self, store: PackStore) -> None:
        self._store = store
        self._key: object = None
        self._segmenter: Segmenter | None = None

    def get(self, rule: Rule, cancel: Callable[[], bool]) -> Segmenter:
        """Return what segments by a rule.

        Args:
            rule: with task, size and options.
            cancel: asked while an engine is loaded and checked.

        Raises:
            KDSegmentatorError: see :class:`KDSegmentatorLib.segmenter.Segmenter`.
        """
        key = (rule.task, rule.run_options(), _installed(self._store))
        if self._segmenter is None or key != self._key:
            self._segmenter = None  # out of memory before the next one comes
            self._segmenter = Segmenter(rule.task, rule.run_options(), store=self._store, cancel=cancel)
            self._key = key
        return self._segmenter


def _installed(store: PackStore) -> tuple[tuple[str, int, int], ...]:
    """Return what changes whenever a pack does."""
    lists = [*Path(store.user_folder).glob("*/installed.json"), *Path(store.shipped_folder).glob("*/manifest.json")]
    return tuple((str(path), found.st_mtime_ns, found.st_size) for path in sorted(lists) for found in [path.stat()])

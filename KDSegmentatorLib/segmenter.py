"""Packs and engines, loaded once and called for one volume after another."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from KDSegmentatorLib.advisor.selection import AUTOMATIC, Choice, select
from KDSegmentatorLib.engines.selection import AUTOMATIC as AUTOMATIC_ENGINE
from KDSegmentatorLib.engines.selection import create_engine
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.packs.store import DamagedPack, PackStore

if TYPE_CHECKING:
    from KDSegmentatorLib.engines.engine import Engine
    from KDSegmentatorLib.packs.pack import StudentPack

_log = logging.getLogger(__name__)


class Segmenter:
    """Segments volumes with the students of one task.

    Args:
        task: the family, for example ``hippocampus``.
        size: ``x1`` (the teacher), ``x1/2``, ``x1/4``, ...; ``auto`` takes, for every volume, the largest one that fits
            time and memory.
        engine: name of the engine, or ``auto``.
        threads: CPU threads; None leaves it to the engine.
        store: where packs are looked up; None for the user's and the shipped ones.

    Raises:
        PackError: no such pack, or a damaged one.
        ManifestError: its manifest is not valid.
        EngineUnavailableError: the engine is not installed.
        EngineError: the engine does not load the network.

    A pack's files are read and its engine is made here for a fixed size, at the first volume that needs them for
    ``auto``; both are kept.

    Example:
        >>> segmenter = Segmenter("hippocampus", "x1/4")
        >>> segmentation = segmenter(read_volume("t1.nii.gz"))
        >>> write_volume(segmentation.volume, "labels.nii.gz")
    """

    def __init__(
        self,
        task: str,
        size: str = AUTOMATIC,
        *,
        engine: str = AUTOMATIC_ENGINE,
        threads: int | None = None,
        store: PackStore | None = None,
    ) -> None:
        self._selection = select(store or PackStore(), task, size)
        self._engine_name = engine
        self._threads = threads
        self._engines: dict[str, Engine] = {}
        if not self._selection.automatic:
            self.engine_for(self.pack)

    @property
    def pack(self) -> StudentPack:
        """The pack of a fixed size.

        Raises:
            InvalidSettingsError: the size is ``auto``; :meth:`choose` tells the pack for a volume.
        """
        if self._selection.automatic:
            raise InvalidSettingsError(
                "with the size 'auto' the pack depends on the volume; ask choose(volume), or name a size"
            )
        return self._selection.packs.packs[0]

    @property
    def engine(self) -> Engine:
        """The engine of a fixed size.

        Raises:
            InvalidSettingsError: the size is ``auto``; see :meth:`choose` and :meth:`engine_for`.
        """
        return self.engine_for(self.pack)

    @property
    def damaged(self) -> tuple[DamagedPack, ...]:
        """Packs of the task that ``auto`` leaves out because they cannot be used."""
        return self._selection.damaged

    def choose(self, volume: Volume, *, mirroring: bool = False) -> Choice:
        """Return the pack for a volume and, if the size is ``auto``, why.

        Raises:
            GeometryError: the volume would be empty or too large at the packs' spacing.
        """
        return self._selection.choose(volume, mirroring=mirroring)

    def engine_for(self, pack: StudentPack) -> Engine:
        """Return the engine of a pack, made when it is first asked for.

        Raises:
            PackError: the pack's body is damaged.
            EngineUnavailableError: the engine is not installed.
            EngineError: the engine does not load the network.
        """
        engine = self._engines.get(pack.manifest_sha256)
        if engine is None:
            engine = create_engine(pack.body(), name=self._engine_name, threads=self._threads)
            self._engines[pack.manifest_sha256] = engine
        return engine

    def __call__(
        self,
        volume: Volume,
        *,
        choice: Choice | None = None,
        labels: Sequence[str | int] | None = None,
        mirroring: bool = False,
        check_modality: bool = True,
        progress: ProgressCallback | None = None,
        cancel: CancelCheck | None = None,
    ) -> Segmentation:
        """Segment a volume.

        Args:
            volume: the scan.
            choice: from :meth:`choose`, if it was called before; None calls it.
            labels: see :func:`KDSegmentatorLib.inference.pipeline.segment`, also for what follows.
            mirroring: average over mirrored windows.
            check_modality: refuse volumes that look like label maps or another modality.
            progress: called at every step.
            cancel: asked at every step.

        Raises:
            KDSegmentatorError: see :func:`KDSegmentatorLib.inference.pipeline.segment` and :meth:`engine_for`.
        """
        if choice is None:
            for damaged in self.damaged:
                _log.warning("%s is left out: %s", damaged.id, damaged.error)
            choice = self.choose(volume, mirroring=mirroring)
        return segment(
            volume,
            choice.pack,
            self.engine_for(choice.pack),
            labels=labels,
            mirroring=mirroring,
            check_modality=check_modality,
            progress=progress,
            cancel=cancel,
        )

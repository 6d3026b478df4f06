"""A pack and an engine, loaded once and called for one volume after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from KDSegmentatorLib.engines.selection import AUTOMATIC, create_engine
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.packs.catalogue import find
from KDSegmentatorLib.packs.store import PackStore

if TYPE_CHECKING:
    from KDSegmentatorLib.packs.pack import StudentPack


class Segmenter:
    """Segments volumes with one student.

    Args:
        task: the family, for example ``hippocampus``.
        size: ``x1`` (the teacher), ``x1/2``, ``x1/4``, ...
        engine: name of the engine, or ``auto``.
        threads: CPU threads; None leaves it to the engine.
        store: where packs are looked up; None for the user's and the shipped ones.

    Raises:
        PackError: no such pack, or a damaged one.
        EngineUnavailableError: the engine is not installed.
        EngineError: the engine does not load the network.

    Example:
        >>> segmenter = Segmenter("hippocampus", "x1/4")
        >>> segmentation = segmenter(read_volume("t1.nii.gz"))
        >>> write_volume(segmentation.volume, "labels.nii.gz")
    """

    def __init__(
        self,
        task: str,
        size: str = "x1/4",
        *,
        engine: str = AUTOMATIC,
        threads: int | None = None,
        store: PackStore | None = None,
    ) -> None:
        self.pack: StudentPack = find((store or PackStore()).packs(), task, size)
        self.engine = create_engine(self.pack.body(), name=engine, threads=threads)

    def __call__(
        self,
        volume: Volume,
        *,
        labels: Sequence[str | int] | None = None,
        mirroring: bool = False,
        check_modality: bool = True,
        progress: ProgressCallback | None = None,
        cancel: CancelCheck | None = None,
    ) -> Segmentation:
        """Segment a volume; the arguments are those of :func:`KDSegmentatorLib.inference.pipeline.segment`."""
        return segment(
            volume,
            self.pack,
            self.engine,
            labels=labels,
            mirroring=mirroring,
            check_modality=check_modality,
            progress=progress,
            cancel=cancel,
        )

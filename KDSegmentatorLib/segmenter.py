"""Packs and engines, loaded once and called for one volume after another."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from KDSegmentatorLib.advisor.selection import AUTOMATIC, Choice, Selection, select
from KDSegmentatorLib.engines.candidates import EngineRequest
from KDSegmentatorLib.engines.selection import ChosenEngine, choose_engine
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.chain import Regions, find_region
from KDSegmentatorLib.inference.pipeline import check_options, segment
from KDSegmentatorLib.inference.plausibility import check_field_of_view
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback
from KDSegmentatorLib.inference.region import FoundRegion
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.packs.store import DamagedPack, PackStore

if TYPE_CHECKING:
    from KDSegmentatorLib.packs.pack import StudentPack

_log = logging.getLogger(__name__)


class Segmenter:
    """Segments volumes with the students of one task.

    Args:
        task: the family, for example ``hippocampus``.
        size: ``x1`` (the teacher), ``x1/2``, ``x1/4``, ...; ``auto`` takes, for every volume, the best one that
            fits time and memory (:func:`KDSegmentatorLib.advisor.advice.advise`).
        engine: ``openvino``, ``onnxruntime``, or ``auto`` for the fastest that gives the right answer here.
        precision: ``float32``, ``bfloat16``, ``int8`` or ``auto``; packs say which of them keep their accuracy.
        device: ``cpu``, ``cuda``, ... or ``auto``.
        threads: CPU threads; None takes what the machine allows.
        store: where packs are looked up; None for the user's and the shipped ones.
        cancel: asked while the engine of a fixed size is loaded and checked; None for never.
        region: ``given`` if the volumes show nothing but the region already, with 0 everywhere else, as skull-stripped
            brains do: the earlier stage of a chain is left out. None finds the region.
        regions: keeps what earlier stages find, for several segmenters that are called with the same volume one after
            another; None finds it at every call.

    Raises:
        PackError: no such pack, or a damaged one; or so is the pack of its earlier stage.
        ManifestError: its manifest is not valid.
        InvalidSettingsError: there is no such engine, precision, device or region, or the region is said to be given
            to a pack without an earlier stage.
        EngineUnavailableError: what was asked for is not installed, or not possible with this pack.
        EngineError: the engine does not load the network.
        CancelledError: ``cancel`` returned True.

    A pack's files are read and its engine is made here for a fixed size, at the first volume that needs them for
    ``auto``; both are kept. A pack that names another one as its earlier stage gets it from the same store, run by an
    engine of the same kind; both are one call with one progress and one cancel.

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
        engine: str = AUTOMATIC,
        precision: str = AUTOMATIC,
        device: str = AUTOMATIC,
        threads: int | None = None,
        store: PackStore | None = None,
        cancel: CancelCheck | None = None,
        region: Literal["given"] | None = None,
        regions: Regions | None = None,
    ) -> None:
        if region not in (None, "given"):
            raise InvalidSettingsError(f"region must be 'given' or None, got {region!r}")
        self._region_given = region == "given"
        self._regions = regions
        selection = select(store or PackStore(), task, size)
        self._selection = _without_earlier_stage(selection) if self._region_given else selection
        self._request = EngineRequest(engine=engine, precision=precision, device=device, threads=threads)
        self._engines: dict[str, ChosenEngine] = {}
        if not self._selection.automatic:
            self.engine_for(self.pack, cancel)
            if regions is None and self.region_pack is not None:
                self.engine_for(self.region_pack, cancel)

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
    def region_pack(self) -> StudentPack | None:
        """The pack that is run before that of a fixed size; None if there is none, or the region is given.

        Raises:
            InvalidSettingsError: the size is ``auto``; :meth:`choose` tells it for a volume.
        """
        return self._selection.region_packs.get(self.pack.manifest.id)

    @property
    def region_given(self) -> bool:
        """Whether the earlier stage is left out, because the volumes show nothing but the region already."""
        return self._region_given

    @property
    def engine(self) -> ChosenEngine:
        """The engine of a fixed size, and why it was taken.

        Raises:
            InvalidSettingsError: the size is ``auto``; see :meth:`choose` and :meth:`engine_for`.
        """
        return self.engine_for(self.pack)

    @property
    def damaged(self) -> tuple[DamagedPack, ...]:
        """Packs of the task that ``auto`` leaves out because they cannot be used."""
        return self._selection.damaged

    def choose(
        self,
        volume: Volume,
        *,
        mirroring: bool = False,
        entropy: bool = False,
        probabilities: int = 0,
        cancel: CancelCheck | None = None,
    ) -> Choice:
        """Return the pack for a volume and, if the size is ``auto`` or memory will not do, why.

        Args:
            volume: the scan.
            mirroring: whether every window will be run mirrored as well.
            entropy: whether the entropy is wanted.
            probabilities: number of structures whose probability is wanted.
            cancel: asked several times a second while the machine is measured, which ``auto`` may do once.

        Raises:
            GeometryError: the volume would be empty or too large at the packs' spacing.
            EngineUnavailableError: no size can be run with the engine, precision or device that was asked for.
            CancelledError: ``cancel`` returned True.
        """
        return self._selection.choose(
            volume,
            request=self._request,
            mirroring=mirroring,
            entropy=entropy,
            probabilities=probabilities,
            cancelled=cancel or _never,
        )

    def engine_for(self, pack: StudentPack, cancel: CancelCheck | None = None) -> ChosenEngine:
        """Return the engine of a pack, made when it is first asked for, and why it was taken.

        Args:
            pack: the student.
            cancel: asked before engines are loaded, and several times a second while they are checked.

        Raises:
            PackError: the pack's body is damaged.
            EngineUnavailableError: what was asked for is not installed, or not possible with this pack.
            EngineError: the engine does not load the network.
            CancelledError: ``cancel`` returned True.
        """
        chosen = self._engines.get(pack.manifest_sha256)
        if chosen is None:
            chosen = choose_engine(pack, self._request, cancelled=cancel or _never)
            self._engines[pack.manifest_sha256] = chosen
        return chosen

    def __call__(
        self,
        volume: Volume,
        *,
        choice: Choice | None = None,
        labels: Sequence[str | int] | None = None,
        entropy: bool = False,
        probabilities: Sequence[str | int] = (),
        mirroring: bool = False,
        check_input: bool = True,
        progress: ProgressCallback | None = None,
        cancel: CancelCheck | None = None,
    ) -> Segmentation:
        """Segment a volume.

        Args:
            volume: the scan.
            choice: from :meth:`choose`, if it was called before; None calls it.
            labels: see :func:`KDSegmentatorLib.inference.pipeline.segment`, also for what follows.
            entropy: also return the entropy.
            probabilities: structures whose probability is wanted.
            mirroring: average over mirrored windows.
            check_input: refuse volumes that do not fit the pack: label maps, another modality, another field of view,
                next to nothing of the region that an earlier stage looks for.
            progress: called at every step.
            cancel: asked at every step, also while an engine is loaded and checked.

        Raises:
            KDSegmentatorError: see :func:`KDSegmentatorLib.inference.pipeline.segment` and :meth:`engine_for`.
        """
        if choice is None:
            for damaged in self.damaged:
                _log.warning("%s is left out: %s", damaged.id, damaged.error)
            choice = self.choose(
                volume, mirroring=mirroring, entropy=entropy, probabilities=len(probabilities), cancel=cancel
            )
        engine = self.engine_for(choice.pack, cancel).engine
        region: FoundRegion | Literal["given"] | None = "given" if self._region_given else None
        if region is None and choice.region_pack is not None:
            check_options(choice.pack.manifest, labels=labels, probabilities=probabilities, mirroring=mirroring)
            if check_input:  # what the earlier stage cannot mend is said before its work is done
                check_field_of_view(volume, choice.pack.manifest, region_known=False)
            region = self._found_region(volume, choice.region_pack, check_input, progress, cancel)
        return segment(
            volume,
            choice.pack,
            engine,
            region=region,
            labels=labels,
            entropy=entropy,
            probabilities=probabilities,
            mirroring=mirroring,
            check_input=check_input,
            threads=self._request.threads,
            progress=progress,
            cancel=cancel,
        )

    def _found_region(
        self,
        volume: Volume,
        pack: StudentPack,
        check_input: bool,
        progress: ProgressCallback | None,
        cancel: CancelCheck | None,
    ) -> FoundRegion:
        """Return what the pack of an earlier stage finds, or found before."""

        def find() -> FoundRegion:
            return find_region(
                volume,
                pack,
                self.engine_for(pack, cancel).engine,
                check_input=check_input,
                threads=self._request.threads,
                progress=progress,
                cancel=cancel,
            )

        if self._regions is None:
            return find()
        return self._regions.get(volume, (pack.manifest_sha256, self._request, check_input), find)


def _without_earlier_stage(selection: Selection) -> Selection:
    """Return what there is to choose from if the region is given: estimates and runs know nothing of the earlier stage.

    Raises:
        InvalidSettingsError: a pack has no earlier stage.
    """
    for pack in selection.packs.packs:
        if pack.manifest.region is None:
            raise InvalidSettingsError(
                f"{pack.manifest.id} has no earlier stage that could be left out: it segments the whole volume; run it "
                "without --region (region=None)"
            )
    return replace(selection, region_packs={})


def _never() -> bool:
    return False

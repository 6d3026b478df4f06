"""Packs and engines, loaded once and called for one volume after another."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from KDSegmentatorLib.advice import Choice, choose
from KDSegmentatorLib.arguments import check_callable, check_known, described
from KDSegmentatorLib.engines.selection import ChosenEngine, choose_engine
from KDSegmentatorLib.errors import EngineError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.label_selection import check_options
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.plausibility import check_field_of_view
from KDSegmentatorLib.inference.progress import REGION_PREFIX, CancelCheck, Progress, ProgressCallback
from KDSegmentatorLib.inference.region import FoundRegion, shows_little_else
from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.catalogue import Selection, select
from KDSegmentatorLib.packs.store import DamagedPack, PackStore
from KDSegmentatorLib.past_runs import PastRuns, WatchedEngine

if TYPE_CHECKING:
    from KDSegmentatorLib.engines.engine import Engine
    from KDSegmentatorLib.packs.pack import StudentPack

_log = logging.getLogger(__name__)
_CANCEL = "lambda: event.is_set()"


class Segmenter:
    """Segments volumes with the students of one task.

    Args:
        task: the family, for example ``hippocampus``.
        options: how to segment; a text is the size alone.
        store: where packs are looked up; None for the user's and the shipped ones.
        cancel: asked while the engine is loaded and checked; None for never.
        regions: keeps what earlier stages find, for several segmenters that are called with the same volume one after
            another; None finds it at every call.
        choices: fields of :class:`~KDSegmentatorLib.options.RunOptions`, in place of those of ``options``.

    Raises:
        PackError: no such pack, or a damaged one; or so is the pack of its earlier stage.
        ManifestError: its manifest is not valid.
        InvalidSettingsError: an option makes no sense, or not with this pack: a label that it does not have, mirroring
            that it was not trained with, a given region without an earlier stage.
        EngineUnavailableError: what was asked for is not installed, or not possible with this pack.
        EngineError: the engine does not load the network.
        CancelledError: ``cancel`` returned True.

    The size is decided once: here, or with ``auto`` at the first volume, from then on for all. A pack's files are read
    and its engine is made at the same time; both are kept. A pack that names another one as its earlier stage gets it
    from the same store, run by an engine of the same kind; both are one call with one progress and one cancel.

    Threads may share a segmenter: their calls wait for each other. A process that was forked makes engines of its own,
    and is refused where the engine cannot be made a second time.

    Examples:
        >>> segmenter = Segmenter("hippocampus", "x1/4")
        >>> segmentation = segmenter(read_volume("t1.nii.gz"))
        >>> write_volume(segmentation.volume, "labels.nii.gz")

        >>> Segmenter("brain-t1", threads=2, labels=["Left-Hippocampus"])
    """

    def __init__(
        self,
        task: str,
        options: RunOptions | str = "",
        *,
        store: PackStore | None = None,
        cancel: CancelCheck | None = None,
        regions: Regions | None = None,
        **choices: Any,
    ) -> None:
        start = time.perf_counter()
        check_callable(cancel, "cancel", _CANCEL)
        for name, value, kind in (("store", store, PackStore), ("regions", regions, Regions)):
            if not isinstance(value, (kind, type(None))):
                raise InvalidSettingsError(f"{name} must be a {kind.__name__} or None, not {described(value)}")
        self.options = _run_options(options, choices)
        self._regions = regions
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._engines: dict[str, ChosenEngine] = {}
        selection = select(store or PackStore(), task, self.options.size)
        self._selection = _without_earlier_stage(selection) if self.options.region == "given" else selection
        self._pack: StudentPack | None = None
        self._reason: str | None = None
        for pack in self._selection.packs.packs:
            check_options(pack.manifest, self.options)
        if not self._selection.automatic:
            self._pack = self._selection.packs.packs[0]
            self.engine_for(self._pack, cancel)
            if regions is None and self.region_pack is not None:
                self.engine_for(self.region_pack, cancel)
        self._start_seconds = time.perf_counter() - start

    @property
    def pack(self) -> StudentPack:
        """The pack that is run.

        Raises:
            InvalidSettingsError: the size is ``auto``, and was not decided yet by :meth:`choose` or a call.
        """
        if self._pack is None:
            raise InvalidSettingsError(
                "with the size 'auto' the pack is decided at the first volume; ask choose(volume), or name a size"
            )
        return self._pack

    @property
    def region_pack(self) -> StudentPack | None:
        """The pack that is run before it; None if there is none, or the region is given.

        Raises:
            InvalidSettingsError: see :attr:`pack`.
        """
        return self._selection.region_packs.get(self.pack.manifest.id)

    @property
    def engine(self) -> ChosenEngine:
        """The engine of the pack, and why it was taken.

        Raises:
            InvalidSettingsError: see :attr:`pack`.
        """
        return self.engine_for(self.pack)

    @property
    def damaged(self) -> tuple[DamagedPack, ...]:
        """Packs of the task that are left out of the choice of a size because they cannot be used."""
        return self._selection.damaged

    def choose(self, volume: Volume, *, cancel: CancelCheck | None = None) -> Choice:
        """Return the pack, and why if the size is ``auto`` (decided at the first volume) or memory will not do.

        Args:
            volume: the scan.
            cancel: asked several times a second while the machine is measured, which ``auto`` may do once.

        Raises:
            GeometryError: the volume would be empty or too large at the packs' spacing.
            EngineUnavailableError: no size can be run with the engine, precision or device that was asked for.
            CancelledError: ``cancel`` returned True.
        """
        with self._own():
            if self._selection.automatic and self._pack is not None:
                return Choice(pack=self._pack, reason=self._reason, region_pack=self.region_pack)
            choice = choose(self._selection, volume, self.options, cancelled=cancel or _never)
            self._pack, self._reason = choice.pack, choice.reason
            return choice

    def engine_for(self, pack: StudentPack, cancel: CancelCheck | None = None) -> ChosenEngine:
        """Return the engine of a pack, made when it is first asked for, and why it was taken.

        Args:
            pack: the student.
            cancel: asked before engines are loaded, and several times a second while they are checked.

        Raises:
            PackError: the pack's body is damaged.
            EngineUnavailableError: what was asked for is not installed, or not possible with this pack.
            EngineError: the engine does not load the network, or not in a forked process.
            CancelledError: ``cancel`` returned True.
        """
        with self._own():
            chosen = self._engines.get(pack.manifest_sha256)
            if chosen is None:
                chosen = choose_engine(pack, self.options, cancelled=cancel or _never)
                self._engines[pack.manifest_sha256] = chosen
            return chosen

    def __call__(
        self, volume: Volume, *, progress: ProgressCallback | None = None, cancel: CancelCheck | None = None
    ) -> Segmentation:
        """Segment a volume.

        Args:
            volume: the scan.
            progress: called at every step.
            cancel: asked at every step, also while an engine is loaded and checked.

        Returns:
            Labels on exactly the input's grid, with warnings in the record where the result is not like the pack's
            training cases.

        Raises:
            InvalidSettingsError: this is no :class:`~KDSegmentatorLib.geometry.Volume`, or no function.
            KDSegmentatorError: see :func:`KDSegmentatorLib.inference.pipeline.segment` and :meth:`engine_for`.
        """
        if not isinstance(volume, Volume):
            raise InvalidSettingsError(_no_volume(volume))
        check_callable(progress, "progress", "lambda step: print(step.done, step.total)")
        check_callable(cancel, "cancel", _CANCEL)
        with self._own():
            asked = time.perf_counter()
            if self._pack is None:
                for damaged in self.damaged:
                    _log.warning("%s is left out: %s", damaged.id, damaged.error)
                self.choose(volume, cancel=cancel)
            chosen = self.engine_for(self.pack, cancel)
            engine = WatchedEngine(chosen.engine, self.options.threads)
            self._start_seconds += time.perf_counter() - asked
            region = None
            if self.region_pack is not None:
                if self.options.check_input:  # what the earlier stage cannot mend is said before its work is done
                    check_field_of_view(volume, self.pack.manifest, region_known=False)
                region = self._region(volume, self.region_pack, progress, cancel)
            found = segment(volume, self.pack, engine, self.options, region=region, progress=progress, cancel=cancel)
            _remember(self.pack, chosen, engine, volume, found.record)
            start, self._start_seconds = self._start_seconds, 0.0
            return replace(found, record=found.record.with_seconds(start=start))

    def _region(
        self, volume: Volume, pack: StudentPack, progress: ProgressCallback | None, cancel: CancelCheck | None
    ) -> FoundRegion:
        """Return what the pack of the earlier stage finds, or found before."""
        options = RunOptions(check_input=self.options.check_input, threads=self.options.threads)

        def find() -> FoundRegion:
            chosen = self.engine_for(pack, cancel)
            engine = WatchedEngine(chosen.engine, self.options.threads)
            found = find_region(volume, pack, engine, options, progress=progress, cancel=cancel)
            _remember(pack, chosen, engine, volume, found.record)
            return found

        if self._regions is None:
            return find()
        way = (self.options.engine, self.options.precision, self.options.device, options.threads, options.check_input)
        return self._regions.get(volume, (pack.manifest_sha256, way), find)

    @contextmanager
    def _own(self) -> Iterator[None]:
        """One thread at a time, in this process: engines do not survive a fork.

        Raises:
            EngineError: the process was forked, and OpenVINO, whose threads are gone, would wait for them for ever.
        """
        if self._process != os.getpid():
            if any(chosen.engine.name == "openvino" for chosen in self._engines.values()):
                raise EngineError(
                    "this process was forked from one in which OpenVINO has run, which stops for ever here: start "
                    "processes with multiprocessing.get_context('spawn') and make the Segmenter in them, or take "
                    "engine='onnxruntime'"
                )
            self._lock, self._process = threading.RLock(), os.getpid()
            self._engines.clear()
        with self._lock:
            yield


def find_region(
    volume: Volume,
    pack: StudentPack,
    engine: Engine,
    options: RunOptions | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelCheck | None = None,
) -> FoundRegion:
    """Return what an earlier pack finds in a volume, for :func:`KDSegmentatorLib.inference.pipeline.segment`.

    Args:
        volume: the scan.
        pack: the earlier pack (:func:`KDSegmentatorLib.packs.regions.region_pack`).
        engine: runs its body.
        options: of which threads and the check of the input count.
        progress: called at every step, with stages that start with ``region-``.
        cancel: asked at every step.

    Raises:
        KDSegmentatorError: see :func:`KDSegmentatorLib.inference.pipeline.segment`.
    """

    def region_progress(step: Progress) -> None:
        if progress is not None:
            progress(replace(step, stage=REGION_PREFIX + step.stage))

    found = segment(volume, pack, engine, options, progress=region_progress, cancel=cancel)
    mask = found.volume.voxels != 0
    return FoundRegion(
        volume=found.volume.with_voxels(mask),
        title=pack.manifest.title,
        structures=tuple(label.name for label in pack.manifest.labels),
        record=found.record,
        alone=shows_little_else(volume, mask),
    )


class Regions:
    """What earlier packs found in the last volume, so that several sizes run on it find it once.

    A volume is known by its object: do not change its voxels in between.
    """

    def __init__(self) -> None:
        self._volume: Volume | None = None
        self._found: dict[Hashable, FoundRegion] = {}

    def get(self, volume: Volume, key: Hashable, find: Callable[[], FoundRegion]) -> FoundRegion:
        """Return a region that is known, or find it.

        Args:
            volume: the scan.
            key: what else decides what is found: pack, engine, settings.
            find: finds it.
        """
        if self._volume is not volume:
            self._volume = volume
            self._found = {}
        known = self._found.get(key)
        if known is not None:
            return replace(known, reused=True)
        found = self._found[key] = find()
        return found


def _remember(
    pack: StudentPack, chosen: ChosenEngine, engine: WatchedEngine, volume: Volume, record: RunRecord
) -> None:
    """Write down what a run took, for estimates (:mod:`KDSegmentatorLib.advice`); no run depends on it."""
    if engine.calls:
        run = engine.past_run(
            pack,
            chosen.loading_seconds,
            compiled=chosen.compiled,
            voxels=volume.voxels.size,
            windows=record.windows,
            array_seconds=record.seconds["preprocess"] + record.seconds["restore"],
        )
        PastRuns().add(run)


def _run_options(options: RunOptions | str, choices: dict[str, Any]) -> RunOptions:
    """Return the options of a constructor's arguments.

    Raises:
        InvalidSettingsError: there is no such option, or a value makes no sense.
    """
    check_known(choices, RunOptions.__struct_fields__, "a Segmenter")
    if not isinstance(options, RunOptions):
        if "size" in choices:
            if options != "":
                raise InvalidSettingsError(f"the size was given twice, {options!r} and {choices['size']!r}")
            return RunOptions(**choices)
        return RunOptions(size=options, **choices)
    return RunOptions(**{**msgspec.structs.asdict(options), **choices})


def _without_earlier_stage(selection: Selection) -> Selection:
    """Return what there is to choose from if the region is given: estimates and runs know nothing of the earlier stage.

    Raises:
        InvalidSettingsError: a pack has no earlier stage.
    """
    for pack in selection.packs.packs:
        if pack.manifest.region is None:
            raise InvalidSettingsError(
                f"{pack.manifest.id} has no earlier stage that could be left out: it segments the whole volume; run it "
                "without --region (region='')"
            )
    return replace(selection, region_packs={})


def _no_volume(given: object) -> str:
    if isinstance(given, (str, os.PathLike)):
        return f"a Segmenter takes a Volume, not the name of a file: segmenter(read_volume({os.fspath(given)!r}))"
    if isinstance(given, Segmentation):
        return "a Segmenter takes a Volume, a scan, not a Segmentation; its label map is segmentation.volume"
    return (
        f"a Segmenter takes a Volume, not {described(given)}: give voxels (z, y, x) their place with "
        "Volume(voxels, spacing, origin, direction), or read a file with read_volume"
    )


def _never() -> bool:
    return False

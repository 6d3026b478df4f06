"""From a task and a size, which may be left open, to the pack that segments a volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from KDSegmentatorLib.advisor.advice import advise, memory_warning
from KDSegmentatorLib.advisor.calibration import Calibration
from KDSegmentatorLib.advisor.workload import RunOptions
from KDSegmentatorLib.arguments import described
from KDSegmentatorLib.engines.candidates import EngineRequest
from KDSegmentatorLib.errors import InvalidSettingsError, PackError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.machine.hardware import detect_hardware
from KDSegmentatorLib.packs.catalogue import Family, families, find
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.regions import region_pack
from KDSegmentatorLib.packs.rules import pack_id
from KDSegmentatorLib.packs.store import DamagedPack, PackStore

AUTOMATIC = "auto"
"""The size that is chosen for each volume."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The pack to run, and why if the size was left open; with a fixed size, a warning if memory will not do.

    ``region_pack`` is run before it; None if the pack sees the whole volume.
    """

    pack: StudentPack
    reason: str | None = None
    region_pack: StudentPack | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a task and a size leave to choose from.

    Attributes:
        packs: the pack of a fixed size, or all usable ones of the task, with :data:`AUTOMATIC`.
        damaged: packs of the task that cannot be chosen, with :data:`AUTOMATIC`: also those without a usable pack for
            their earlier stage.
        region_packs: by the id of a pack, the one that is run before it, if there is one.
    """

    packs: Family
    automatic: bool
    damaged: tuple[DamagedPack, ...] = ()
    region_packs: Mapping[str, StudentPack] = field(default_factory=dict)

    def choose(
        self,
        volume: Volume,
        *,
        request: EngineRequest | None = None,
        mirroring: bool = False,
        entropy: bool = False,
        probabilities: int = 0,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Choice:
        """Return the pack for a volume.

        Args:
            volume: the scan.
            request: engine, precision, device and threads of the run; None leaves everything open.
            mirroring: whether every window will be run mirrored as well.
            entropy: whether the entropy is wanted.
            probabilities: number of structures whose probability is wanted.
            cancelled: asked several times a second while the machine is measured.

        Raises:
            GeometryError: the volume would be empty or too large at the packs' spacing.
            InvalidSettingsError: the number of threads is not positive.
            EngineUnavailableError: no size can be run as ``request`` asks for.
            CancelledError: ``cancelled`` returned True.
        """
        hardware = detect_hardware()
        if not self.automatic:
            pack = self.packs.packs[0]
            options = RunOptions(mirroring=mirroring, entropy=entropy, probabilities=probabilities)
            earlier = self.region_packs.get(pack.manifest.id)
            warning = memory_warning(pack, volume, hardware, request=request, options=options, region_pack=earlier)
            return Choice(pack=pack, reason=warning, region_pack=earlier)
        # what other programs use at the moment must not decide which network runs
        idle = replace(hardware, available_memory=hardware.total_memory or hardware.available_memory)
        advice = advise(
            self.packs,
            volume,
            idle,
            request=request,
            mirroring=mirroring,
            entropy=entropy,
            probabilities=probabilities,
            speed_of=Calibration(cancelled=cancelled).speed,
            region_packs=self.region_packs,
        )
        reason = advice.reason
        options = RunOptions(mirroring=mirroring, entropy=entropy, probabilities=probabilities)
        earlier = self.region_packs.get(advice.pack.manifest.id)
        if hardware.total_memory is not None and (
            warning := memory_warning(
                advice.pack, volume, hardware, request=request, options=options, region_pack=earlier
            )
        ):
            reason += f"; at the moment {warning}"
        if self.damaged:
            reason += f"; left out as unusable: {', '.join(pack.id for pack in self.damaged)}"
        return Choice(pack=advice.pack, reason=reason, region_pack=self.region_packs.get(advice.pack.manifest.id))


def select(store: PackStore, task: str, size: str = "") -> Selection:
    """Return what a task and a size leave to choose from.

    Args:
        store: where packs are looked up.
        task: for example ``hippocampus``.
        size: for example ``x1/4``; empty for the recommended one, or :data:`AUTOMATIC`.

    Raises:
        InvalidSettingsError: the task is no text.
        PackError: there is no such pack, it is damaged, or so is the pack of its earlier stage; with
            :data:`AUTOMATIC`, all of the task are.
        ManifestError: its manifest is not valid.
    """
    if not isinstance(task, str):
        raise InvalidSettingsError(f"the task must be a name, such as 'hippocampus', not {described(task)}")
    task = task.strip().casefold().replace("_", "-").replace(" ", "-")
    fixed = size not in ("", AUTOMATIC)
    if fixed and (pack := store.find(pack_id(task, size))) is not None:
        earlier = region_pack(pack, store.find)
        return Selection(
            packs=Family(task=task, packs=(pack,)),
            automatic=False,
            region_packs={} if earlier is None else {pack.manifest.id: earlier},
        )
    packs, damaged = store.all_packs()
    family = next((family for family in families(packs) if family.task == task), None)
    of_task = tuple(pack for pack in damaged if pack.id.rpartition("-")[0] == task)
    if fixed or (family is None and not of_task):
        return Selection(packs=Family(task=task, packs=(find(packs, task, size),)), automatic=False)
    usable: list[StudentPack] = []
    region_packs: dict[str, StudentPack] = {}
    left_out = list(of_task)
    for pack in () if family is None else family.packs:
        try:
            earlier = region_pack(pack, store.find)
        except PackError as error:
            shipped = store.is_shipped(pack.manifest.id)
            left_out.append(DamagedPack(id=pack.manifest.id, folder=pack.folder, shipped=shipped, error=error))
            continue
        usable.append(pack)
        if earlier is not None:
            region_packs[pack.manifest.id] = earlier
    if not usable:
        raise left_out[0].error
    return Selection(
        packs=Family(task=task, packs=tuple(usable) if size == AUTOMATIC else (recommended(usable),)),
        automatic=size == AUTOMATIC,
        damaged=tuple(left_out),
        region_packs=region_packs,
    )


def recommended(packs: Sequence[StudentPack]) -> StudentPack:
    """Return the pack of a family that is run if nobody names a size: the one that says so, or the smallest.

    Args:
        packs: from x1 (the teacher) down, at least one.
    """
    return next((pack for pack in packs if pack.manifest.recommended), packs[-1])

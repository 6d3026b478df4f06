"""What a run of the benchmark measures with: how often, how large, and where it keeps what it makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdbench.cache import Cache
from kdbench.families import ABDOMEN_CT, BRAIN_MR, FamilyPlan
from kdbench.runner import Argument, Subject, run_in_new_process
from KDSegmentatorLib.packs.names import pack_id
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How large everything is; tests take it small. Sizes of scans are voxels along i, j, k.

    Attributes:
        brain: the family that is compared with stock nnU-Net.
        brain_scan: one window of it, at its own spacing.
        abdomen: the family of the volumes.
        ct_scans: volumes that grow, the smallest first.
        ct_spacing: of them, mm along i, j, k.
        classes: outputs of the heads that are put on one body, background included.
        structures: labels of the pair of segmentations, as large as ``brain_scan``, that metrics are timed on.
        patch: one patch of a training, voxels along z, y, x.
        loss_classes: outputs of the networks whose loss is timed on ``patch``, background included.
        template_boxes: name to size of the real scans that shipped packs segment.
        matrix: rows of the matrices whose product is the machine's peak.
        copied: bytes of the array whose copy shows the memory's speed.
        seconds: how long to repeat products and copies.
        repeats: windows that a body, and steps that a loss, is timed with in one process.
    """

    brain: FamilyPlan = BRAIN_MR
    brain_scan: Size = (160, 192, 160)
    abdomen: FamilyPlan = ABDOMEN_CT
    ct_scans: tuple[Size, ...] = ((256, 256, 150), (384, 384, 300), (512, 512, 300), (512, 512, 600))
    ct_spacing: tuple[float, float, float] = (0.76, 0.76, 1.0)
    classes: tuple[int, ...] = (2, 14, 37, 111)
    structures: int = 13
    patch: Size = (64, 96, 64)
    loss_classes: tuple[int, ...] = (3, 8, 14, 46)
    template_boxes: Mapping[str, Size] = field(
        default_factory=lambda: {"one window": (36, 50, 36), "many windows": (80, 112, 80)}
    )
    matrix: int = 4096
    copied: int = 1 << 29
    seconds: float = 3.0
    repeats: int = 5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run of the benchmark.

    Attributes:
        cache: what is made once.
        rounds: runs of each of our subjects.
        long_rounds: runs of those that take longest: the large volumes, and each of the advisor's cases.
        stock_rounds: runs of stock nnU-Net; None for one with the teacher and three with students, 0 for none.
        sizes: of the paper's family.
        warm_up: whether subjects that fill caches on the disk make a first run that does not count.
        scope: how large everything is.
        say: takes a line for the user.
    """

    cache: Cache
    rounds: int = 5
    long_rounds: int = 5
    stock_rounds: int | None = None
    sizes: tuple[str, ...] = ("x1", "x1/2", "x1/4")
    warm_up: bool = True
    scope: Scope = field(default_factory=Scope)
    say: Callable[[str], None] = print

    def member(self, family: FamilyPlan, size: str) -> StudentPack:
        """Return a generated pack; its model folder was made before it.

        Raises:
            kdbench.runner.MeasurementError: it could not be made.
        """
        return self._pack(
            pack_id(family.task, size),
            "kdbench.generated:make_family_member",
            family=dataclasses.asdict(family),
            size=size,
            models=str(self.cache.models),
        )

    def with_other_head(self, source: StudentPack, outputs: int) -> StudentPack:
        """Return a generated pack with the body of another one, for another number of labels.

        Args:
            source: a generated pack.
            outputs: labels, background included.

        Raises:
            kdbench.runner.MeasurementError: it could not be made.
        """
        task = f"{source.manifest.task}-{outputs}"
        return self._pack(
            pack_id(task, source.manifest.size),
            "kdbench.generated:make_pack_with_other_head",
            source=source.manifest.id,
            task=task,
            outputs=outputs,
        )

    def model_folder(self, pack: StudentPack) -> Path:
        """Return the model folder that a generated pack was exported from."""
        return self.cache.models / pack.manifest.id

    def shipped_packs(self) -> list[StudentPack]:
        """Return the packs that come with KDSegmentator, whatever else the user has installed."""
        return PackStore(user_folder=self.no_packs).packs()

    @property
    def no_packs(self) -> Path:
        """A folder without packs."""
        return self.cache.folder / "no-packs"

    def brain_scan(self) -> Path:
        """Return a scan of exactly one window of the brain family.

        Raises:
            kdbench.runner.MeasurementError: it could not be made.
        """
        size, spacing = self.scope.brain_scan, self.scope.brain.spacing[::-1]
        return self._scan(f"mr-{_name(size)}", "kdbench.scans:make_mr", size=size, spacing=spacing)

    def ct_scan(self, size: Size) -> Path:
        """Return a generated CT.

        Raises:
            kdbench.runner.MeasurementError: it could not be made.
        """
        return self._scan(f"ct-{_name(size)}", "kdbench.scans:make_ct", size=size, spacing=self.scope.ct_spacing)

    def template_box(self, size: Size) -> Path:
        """Return a piece of the MNI152 T1 template.

        Raises:
            kdbench.runner.MeasurementError: it could not be made.
        """
        return self._scan(f"template-{_name(size)}", "kdbench.scans:make_template_box", size=size)

    def stripped_brain(self) -> Path:
        """Return the whole template: a skull-stripped brain.

        Raises:
            kdbench.runner.MeasurementError: it could not be made.
        """
        return self._scan("template", "kdbench.scans:make_brain")

    def _pack(self, identifier: str, maker: str, **arguments: Argument) -> StudentPack:
        store = PackStore(user_folder=self.cache.packs)
        if identifier not in {pack.manifest.id for pack in store.packs()}:
            self._make(identifier, maker, packs=str(self.cache.packs), **arguments)
        return store.get(identifier)

    def _scan(self, name: str, maker: str, **arguments: Argument) -> Path:
        path = self.cache.scans / f"{name}.nii.gz"
        if not path.is_file():
            self._make(path.name, maker, path=str(path), **arguments)
        return path

    def _make(self, what: str, maker: str, **arguments: Argument) -> None:
        """Let another process make something: this one stays small."""
        self.say(f"Making {what}")
        run_in_new_process(Subject(name=what, function=maker, arguments=arguments))


def _name(size: Size) -> str:
    return "x".join(str(length) for length in size)

"""The result of a run: labels on the input's grid, what they mean, how they came about, and what is odd about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.packs.manifest import Label, Manifest

WarningKind = Literal[
    "input",
    "tilted",
    "spikes",
    "noise",
    "thick slices",
    "implausible",
    "contrast",
    "empty",
    "missing",
    "displaced",
    "small",
    "large",
    "cut off",
    "asymmetric",
]


@dataclass(frozen=True, kw_only=True)
class ResultWarning:
    """Something about a result that its user should look at before using it.

    Attributes:
        kind: ``input`` is a volume that does not look like what the pack was made for, segmented all the same because
            the check was switched off; ``tilted`` a DICOM series whose tilted images were resampled onto a straight
            grid; ``spikes`` one with single voxels far from all others, which were clipped;
            ``noise`` one that is mostly noise round the body; ``thick slices`` one that is coarser than the training
            images, with all structures whose size or place is odd for that reason; ``implausible`` a result that is odd
            in many of its structures; ``contrast`` one whose structures are not bright and dark as in the training
            images; ``displaced`` says which structures are far from their places in the training set, the farthest
            first; ``cut off`` is a structure that touches the edge of the volume and usually does not, or is too small,
            or much smaller than its other side; with less than :data:`KDSegmentatorLib.inference.sanity.CUT_OFF_SHARE`
            of it left it is ``small``.
        pack_id: the pack that made it, in a chain possibly the earlier one.
        labels: names of the structures, the left one first of a pair; none if it is about all of them.
        found: the slice distance in mm for ``thick slices``; degrees for ``tilted``; volume in ml, or the difference
            ``|L - R| / ((L + R) / 2)`` of a pair; the correlation
            for ``contrast``, None there if all structures are equally bright; the largest distance in mm for
            ``displaced``; None for ``input``, ``implausible``, ``empty`` and ``missing``.
        expected: the smallest and the largest such number in the training set; None where there is none.
        sentence: all of that for people.
    """

    kind: WarningKind
    pack_id: str
    labels: tuple[str, ...] = ()
    found: float | None = None
    expected: tuple[float, float] | None = None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class RegionRecord:
    """What an auditor needs to repeat the earlier stage of a chain of two packs.

    Attributes:
        pack_id: id of the earlier pack.
        pack_version: its version.
        pack_sha256: hash of its manifest, which holds the hashes of its files.
        margin_mm: how far from its structures voxels were kept.
        engine: name of the engine.
        device: what it computed on.
        precision: number format of the engine.
        windows: positions of the window.
        calls: of the network; see :class:`RunRecord`.
        voxels: of its structures, without the margin.
        alone: whether the scan showed little else, as a skull-stripped brain does, and was taken as it was: nothing
            outside of the structures and the margin was left out.
        reused: whether it had been found before, for another size; its time counts all the same, as it was then.
    """

    pack_id: str
    pack_version: str
    pack_sha256: str
    margin_mm: float
    engine: str
    device: str
    precision: str
    windows: int
    calls: int
    voxels: int
    alone: bool
    reused: bool


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What an auditor needs to repeat a run.

    Attributes:
        pack_id: id of the pack.
        pack_version: its version.
        pack_sha256: hash of its manifest, which holds the hashes of its files.
        task: the family.
        size: ``x1``, ``x1/2``, ...
        engine: name of the engine.
        engine_version: its version.
        device: what it computed on.
        processor: name of the computer's processor.
        precision: number format of the engine.
        threads: CPU threads outside of the engine, and in it if that was told.
        checked: whether the volume had to fit the pack: its modality and its field of view.
        mirroring: whether the features were averaged over mirrored windows.
        windows: positions of the window, mirrored ones counted apart.
        calls: of the network; fewer than windows where several hold one and the same value, as the air of a CT after
            clipping: it is run once.
        seconds: wall time of ``preprocess``, ``windows`` (inside the engine), ``restore`` (blending and all that comes
            after) and ``total``; in a chain also ``region``, all of the earlier stage, which is part of ``total``.
            Beyond ``total``: ``start``, reading packs and making engines, with the first volume of a ``Segmenter``;
            ``reading``, ``statistics`` and ``writing``, where that was done (:meth:`with_seconds`).
        library_version: version of this library.
        region: the earlier stage; None if the whole volume was segmented.
        warnings: what the user should look at before using the result, that of the earlier stage included; mostly none.
    """

    pack_id: str
    pack_version: str
    pack_sha256: str
    task: str
    size: str
    engine: str
    device: str
    precision: str
    threads: int
    checked: bool
    mirroring: bool
    windows: int
    calls: int
    seconds: dict[str, float]
    library_version: str
    region: RegionRecord | None = None
    warnings: tuple[ResultWarning, ...] = ()
    engine_version: str = ""
    processor: str = ""

    def with_seconds(self, **seconds: float) -> RunRecord:
        """Return the record with the times of further steps.

        Examples:
            >>> segmentation.record.with_seconds(reading=0.8, writing=0.3)
        """
        return replace(self, seconds=self.seconds | seconds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """A multi-label segmentation.

    Attributes:
        volume: label values, uint8 (uint16 from 256 labels on), on exactly the input's grid; 0 is background.
        labels: the structures that were asked for, also those that were not found.
        record: how the result came about.
        entropy: of the labels' probabilities in bits, float32, on the same grid (0 outside of the cropped region); None
            if it was not asked for. High where the network is in doubt.
        probabilities: label value to its probability, float32, on the same grid, for those that were asked for.
    """

    volume: Volume
    labels: tuple[Label, ...]
    record: RunRecord
    entropy: Volume | None = None
    probabilities: dict[int, Volume] = field(default_factory=dict)


def input_warning(finding: str, manifest: Manifest) -> ResultWarning:
    """Return the warning that a volume was segmented though it does not look like what the pack was made for.

    Args:
        finding: what would have been the reason to refuse it, one or more sentences.
        manifest: of the pack.
    """
    return ResultWarning(
        kind="input",
        pack_id=manifest.id,
        sentence=f"Segmented without the check of the input, which found: {finding}",
    )

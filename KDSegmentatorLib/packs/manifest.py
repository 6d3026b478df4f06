"""What a student pack says about itself: ``manifest.json`` as frozen dataclasses.

``manifest.schema.json`` beside this file describes the same structure for other tools; a test keeps the two together.
Array-order fields (spacing, patch size, mirroring axes) refer to the array after reorientation to ``axis_codes`` and
after ``transpose_forward``, as in nnU-Net's plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCHEMA_VERSION = 1

Modality = Literal["CT", "MR"]
NormalizationScheme = Literal["CT", "ZScore"]
ReducedFormat = Literal["bfloat16", "int8"]
Precision = Literal["float32", "bfloat16", "int8"]
SurfaceKind = Literal["voxels", "subvoxel"]
Method = str
"""``teacher``, ``plain`` (a student without one), or the name of a distillation method, for example ``logit-reco``."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """A coded concept, for example SCT 10200004 "Liver"."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Terminology:
    """What a label is, in DICOM's terms (segmented property category and type, CID 7150 and 7151)."""

    category: Code
    type: Code
    type_modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None


@dataclass(frozen=True, kw_only=True)
class Label:
    """A foreground structure. ``color`` is RGB, 0 to 255."""

    value: int
    name: str
    color: tuple[int, int, int]
    terminology: Terminology


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Intensity normalisation of one input channel, nnU-Net's schemes.

    ``CT`` clips to the percentiles of the training foreground and uses its mean and standard deviation (all in HU);
    ``ZScore`` uses the image's own, inside the non-zero mask if ``use_mask``.
    """

    scheme: NormalizationScheme
    use_mask: bool = False
    mean: float | None = None
    std: float | None = None
    percentile_00_5: float | None = None
    percentile_99_5: float | None = None


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """Spline orders: in the plane (or in 3-D) and, when the low-resolution axis is resampled apart, along it.

    ``force_separate_z`` None leaves that to nnU-Net's anisotropy rule.
    """

    order: int
    order_z: int
    force_separate_z: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a volume becomes the network's input. ``spacing`` in mm, transposed array order."""

    axis_codes: str
    transpose_forward: tuple[int, int, int]
    spacing: tuple[float, float, float]
    normalization: Normalization
    image_resampling: Resampling
    logits_resampling: Resampling


@dataclass(frozen=True, kw_only=True)
class FieldOfView:
    """How large the training images were: least and greatest length in mm along each of the pack's axis codes.

    Whole images, voxels times spacing, before the crop to their non-zero region and before ``transpose_forward``. A
    volume that is much smaller or larger is refused (:mod:`KDSegmentatorLib.inference.plausibility`).
    """

    smallest: tuple[float, float, float]
    largest: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class ExpectedLabel:
    """What the reference segmentations of the training cases have of one label.

    ``cases`` have it, and in ``at_edge`` of these it touches the edge of its image, so that it may go on beyond it
    (:mod:`KDSegmentatorLib.inference.structure_measures`). ``smallest_ml`` and ``largest_ml`` are its volume in
    millilitres, the smallest without the cases in which it touches the edge, if there are others. ``intensity`` is its
    mean intensity in the images, standardised over all labelled voxels of an image
    (:mod:`KDSegmentatorLib.inference.structure_measures`) and averaged over the cases that have it: what is bright
    and what is dark in this kind of scan. ``place`` is where it is among the others, (L, P, S) in mm, and
    ``displacement`` how far from there it is in any case, in mm; both
    without the cases in which it touches the edge of its image. These three are None in packs with few labels, in
    those of earlier versions, and the last two for a label that is whole in no case.
    """

    value: int
    cases: int
    at_edge: int
    smallest_ml: float
    largest_ml: float
    intensity: float | None = None
    place: tuple[float, float, float] | None = None
    displacement: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExpectedPair:
    """How much the left and the right of a structure differ in the training cases' reference segmentations.

    ``left`` and ``right`` are label values; ``largest_difference`` is the largest ``|L - R| / ((L + R) / 2)`` of their
    volumes, in [0, 2], over the cases that have both, without those in which one touches the edge of the image if there
    are others.
    """

    left: int
    right: int
    largest_difference: float


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the reference segmentations of the training cases look like, to compare results with.

    ``cases`` is their number, ``smallest_ml`` and ``largest_ml`` the volume of all structures together in millilitres
    (the smallest as in :class:`ExpectedLabel`). A label that no training case has is in none of the ``labels``. A
    result far outside is kept, with a warning (:mod:`KDSegmentatorLib.inference.sanity`).
    """

    cases: int
    smallest_ml: float
    largest_ml: float
    labels: tuple[ExpectedLabel, ...]
    pairs: tuple[ExpectedPair, ...]


@dataclass(frozen=True, kw_only=True)
class Region:
    """An earlier stage: another pack that finds the part of the volume which this one was trained to see.

    That pack is run on the same volume first. What lies farther than ``margin_mm`` from all of its structures becomes
    0, as in training images that were masked in that way, for example skull-stripped ones; then this pack is run.
    ``pack`` is the other pack's id, ``minimum_version`` (``major.minor.patch``) the oldest version that will do. It has
    no region itself: chains have two packs.
    """

    pack: str
    minimum_version: str
    margin_mm: float


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The sliding window: size in voxels, step as a fraction of it, array axes that training mirrored."""

    patch_size: tuple[int, int, int]
    step_fraction: float
    mirroring_axes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ReducedPrecision:
    """A number format that costs next to no accuracy with this network, as measured before it was written here.

    ``body`` is the network in this format (int8), or the float32 network that an engine converts itself (bfloat16).
    ``mean_dice_loss`` and ``largest_dice_loss`` (that of the label which loses most) are float32's Dice minus this
    format's over ``cases`` held-out cases; negative if it gained. ``probe_agreement`` is the share of the probe's
    foreground voxels with float32's label, in [0, 1]: what another machine has to reach too.
    """

    precision: ReducedFormat
    body: str
    mean_dice_loss: float
    largest_dice_loss: float
    cases: int
    probe_agreement: float


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network's cost and parts.

    ``features`` is the number of channels that enter the last 1x1x1 convolution (the head). ``flops_per_window`` counts
    2 x multiply-accumulate of all convolutions for one patch, head included. ``body`` computes in float32; ``probe`` is
    one real window with the labels that float32 gives it, to check other engines and number formats against.
    """

    architecture: str
    alpha: float
    parameters: int
    flops_per_window: int
    features: int
    body: str
    opset: int
    head: str
    probe: str | None = None
    reduced_precisions: tuple[ReducedPrecision, ...]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """Accuracy of one label over the cases that have it, and the teacher's means on the same cases.

    ``nsd`` is the surface Dice; ``hd95_mm`` the 95 % Hausdorff distance in mm. What earlier versions did not measure is
    None.
    """

    value: int
    dice: Interval
    nsd: Interval | None = None
    hd95_mm: Interval | None = None
    teacher_dice: float | None = None
    teacher_nsd: float | None = None
    teacher_hd95_mm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy on cases that training did not see, measured through this library's own pipeline.

    ``teacher_mean_dice`` is the teacher's on the same cases; for the teacher itself it equals ``mean_dice.mean``. NSD
    is the share of both surfaces within ``nsd_tolerance_mm`` of each other, of surface voxels or of sub-voxel patches
    weighted by area (``nsd_surface``). Where a label is in one of both segmentations only, Dice and NSD are 0 and the
    infinite HD95 counts as the diagonal of the image: ``hd95_replaced`` times.
    """

    dataset: str
    split: str
    cases: int
    mirroring: bool
    mean_dice: Interval
    labels: tuple[LabelScore, ...]
    teacher_mean_dice: float | None
    mean_nsd: Interval | None = None
    mean_hd95_mm: Interval | None = None
    teacher_mean_nsd: float | None = None
    teacher_mean_hd95_mm: float | None = None
    nsd_tolerance_mm: float | None = None
    nsd_surface: SurfaceKind | None = None
    hd95_replaced: int | None = None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the weights come from.

    ``temperature`` and ``weight`` are those of logit distillation, if that is among the losses; ``losses`` names all of
    them with their settings as text (packs of earlier versions have none). ``created`` is an ISO 8601 date;
    ``versions`` maps package to version: in the training's environment if the checkpoint says so, and, marked with
    `` (export)``, in that of the export. Earlier packs have those of the export without the mark.
    """

    method: Method
    checkpoint_sha256: str
    teacher_sha256: str | None
    temperature: float | None
    weight: float | None
    seed: int | None
    iterations: int | None
    created: str
    versions: dict[str, str]
    losses: dict[str, dict[str, str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Credit:
    """A licence (SPDX identifier) and whom to credit for what."""

    license: str
    text: str


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size in bytes and SHA-256 (lower-case hex) of a file in the pack."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that inference, a viewer and an auditor need to know about a pack.

    Attributes:
        id: unique name, also the folder's name: task, ``-``, size with ``_`` for ``/`` (``hippocampus-x1_4``).
        version: ``major.minor.patch``.
        task: the family's name; packs of one task are one family.
        size: ``x1`` (the teacher), ``x1/2``, ``x1/4``, ...
        recommended: whether this size is run if nobody names one; for one pack of a family.
        field_of_view: None in packs that were exported before it was written down; then it is not checked.
        expected: None in packs that were exported before it was written down; then sizes are not judged.
        region: the pack that is run before this one; None if this one sees the whole volume.
        single_pieces: values of the structures that are one piece each: what lies apart from the largest piece becomes
            background (:mod:`KDSegmentatorLib.inference.cleaning`).
        files: every file of the pack but ``manifest.json``, by its name (no folders).
    """

    schema_version: int
    id: str
    version: str
    task: str
    title: str
    size: str
    recommended: bool = False
    modality: Modality
    body_part: str
    labels: tuple[Label, ...]
    preprocessing: Preprocessing
    field_of_view: FieldOfView | None = None
    expected: Expected | None = None
    region: Region | None = None
    single_pieces: tuple[int, ...] = ()
    windows: Windows
    network: Network
    evaluation: Evaluation | None
    provenance: Provenance
    data: Credit
    weights: Credit
    intended_use: str
    limits: str
    files: dict[str, FileRecord]

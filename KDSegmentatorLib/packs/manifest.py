"""What a student pack says about itself: ``manifest.json`` as frozen dataclasses, whose hints are the limits.

``msgspec.json.schema(Manifest)`` describes the same as JSON Schema.
Array-order fields (spacing, patch size, mirroring axes) refer to the array after reorientation to ``axis_codes`` and
after ``transpose_forward``, as in nnU-Net's plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from KDSegmentatorLib.packs.names import (
    FILE_NAME_MEANING,
    FILE_NAME_PATTERN,
    ID_PATTERN,
    METHOD_PATTERN,
    SIZE_PATTERN,
    TASK_PATTERN,
    VERSION_PATTERN,
)
from KDSegmentatorLib.packs.strict_json import text

SCHEMA_VERSION = 1

Modality = Literal["CT", "MR"]
NormalizationScheme = Literal["CT", "ZScore"]
ReducedFormat = Literal["bfloat16", "int8"]
Precision = Literal["float32", "bfloat16", "int8"]
SurfaceKind = Literal["voxels", "subvoxel"]
MAXIMUM_FILE_BYTES = 1 << 30
"""Largest file of a pack: 1 GiB."""

MAXIMUM_PACK_BYTES = 2 << 30
"""Largest sum of all files of a pack: 2 GiB."""

MAXIMUM_MANIFEST_BYTES = 1 << 20
"""Largest manifest: 1 MiB."""

MAXIMUM_FILES = 32
"""Most files in a pack, the manifest not counted."""

MAXIMUM_WINDOW_BYTES = 4 << 30
"""Largest output of the body for one window, float32: 4 GiB."""

MAXIMUM_MARGIN_MM = 100
"""Largest margin round the region that an earlier stage finds."""

MAXIMUM_LABELS = 65535
"""Label maps are stored in 16 bits."""

# Control characters could steer a terminal or a CSV, direction overrides could make a name read as another, and lone
# surrogates cannot be written as UTF-8.
_UNPRINTABLE = r"\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_LINE = rf"[^\s{_UNPRINTABLE}][^\n{_UNPRINTABLE}]*"
_PARAGRAPHS = rf"[^\s{_UNPRINTABLE}][^{_UNPRINTABLE}]*"

Line = Annotated[str, text(_LINE, "one line of printable text that does not start with a blank", max_length=500)]
LongText = Annotated[str, text(_PARAGRAPHS, "printable text that does not start with a blank", max_length=20_000)]
PackId = Annotated[str, text(ID_PATTERN, "task, '-' and size with '_' for '/', like 'hippocampus-x1_4'", max_length=80)]
Version = Annotated[str, text(VERSION_PATTERN, "major.minor.patch, like '1.0.2'")]
Task = Annotated[str, text(TASK_PATTERN, "lower-case letters and digits with single '-' between", max_length=64)]
Size = Annotated[str, text(SIZE_PATTERN, "'x1', 'x1/2', 'x1/4', ...")]
Method = Annotated[str, text(METHOD_PATTERN, "a method's name, like 'logit-reco'", max_length=40)]
"""``teacher``, ``plain`` (a student without one), or the name of a distillation method, for example ``logit-reco``."""

UNDISTILLED = ("teacher", "plain")
"""Methods without a teacher."""

LabelValue = Annotated[int, Meta(ge=1, le=MAXIMUM_LABELS)]
LabelName = Annotated[str, text(_LINE, "one line of printable text that does not start with a blank", max_length=64)]
NotNegative = Annotated[float, Meta(ge=0)]

_CodeText = Annotated[str, text(_LINE, "a code or its meaning", max_length=64)]
_Scheme = Annotated[str, text(_LINE, "a coding scheme, like 'SCT'", max_length=16)]
_Licence = Annotated[str, text(r"[A-Za-z0-9.+()-]+( [A-Za-z0-9.+()-]+)*", "an SPDX licence expression", max_length=200)]
_Loss = Annotated[str, text(r"[a-z0-9_]+", "a name, like 'ms_sard'", max_length=40)]
Sha256 = Annotated[str, text(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits")]
_FileName = Annotated[str, text(FILE_NAME_PATTERN, FILE_NAME_MEANING)]
_AxisCodes = Annotated[str, text(r"[LRPASI]{3}", "axis codes, like 'LPS'")]
_Day = Annotated[str, text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "a date, like '2026-11-30'")]
_Count = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_Whole = Annotated[int, Meta(ge=0)]
_Above0 = Annotated[float, Meta(gt=0)]
_Fraction = Annotated[float, Meta(gt=0, le=1)]
_Unit = Annotated[float, Meta(ge=0, le=1)]
_Difference = Annotated[float, Meta(ge=-1, le=1)]
_Axis = Annotated[int, Meta(ge=0, le=2)]
_SplineOrder = Annotated[int, Meta(ge=0, le=5)]
_Colour = Annotated[int, Meta(ge=0, le=255)]
_Edge = Annotated[int, Meta(ge=1, le=1024)]
_FARTHEST_MM = 3000.0  # more than a person is long
_Place = Annotated[float, Meta(ge=-_FARTHEST_MM, le=_FARTHEST_MM)]


@dataclass(frozen=True, kw_only=True)
class Code:
    """A coded concept, for example SCT 10200004 "Liver"."""

    scheme: _Scheme
    value: _CodeText
    meaning: _CodeText


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

    value: LabelValue
    name: LabelName
    color: tuple[_Colour, _Colour, _Colour]
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
    std: _Above0 | None = None
    percentile_00_5: float | None = None
    percentile_99_5: float | None = None


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """Spline orders: in the plane (or in 3-D) and, when the low-resolution axis is resampled apart, along it.

    ``force_separate_z`` None leaves that to nnU-Net's anisotropy rule.
    """

    order: _SplineOrder
    order_z: _SplineOrder
    force_separate_z: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a volume becomes the network's input. ``spacing`` in mm, transposed array order."""

    axis_codes: _AxisCodes
    transpose_forward: tuple[_Axis, _Axis, _Axis]
    spacing: tuple[_Above0, _Above0, _Above0]
    normalization: Normalization
    image_resampling: Resampling
    logits_resampling: Resampling


@dataclass(frozen=True, kw_only=True)
class FieldOfView:
    """How large the training images were: least and greatest length in mm along each of the pack's axis codes.

    Whole images, voxels times spacing, before the crop to their non-zero region and before ``transpose_forward``. A
    volume that is much smaller or larger is refused (:mod:`KDSegmentatorLib.inference.plausibility`).
    """

    smallest: tuple[_Above0, _Above0, _Above0]
    largest: tuple[_Above0, _Above0, _Above0]


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
    cases: _Count
    at_edge: _Whole
    smallest_ml: _Above0
    largest_ml: _Above0
    intensity: float | None = None
    place: tuple[_Place, _Place, _Place] | None = None
    displacement: Annotated[float, Meta(ge=0, le=_FARTHEST_MM)] | None = None


@dataclass(frozen=True, kw_only=True)
class ExpectedPair:
    """How much the left and the right of a structure differ in the training cases' reference segmentations.

    ``left`` and ``right`` are label values; ``largest_difference`` is the largest ``|L - R| / ((L + R) / 2)`` of their
    volumes, in [0, 2], over the cases that have both, without those in which one touches the edge of the image if there
    are others.
    """

    left: int
    right: int
    largest_difference: Annotated[float, Meta(ge=0, le=2)]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the reference segmentations of the training cases look like, to compare results with.

    ``cases`` is their number, ``smallest_ml`` and ``largest_ml`` the volume of all structures together in millilitres
    (the smallest as in :class:`ExpectedLabel`). A label that no training case has is in none of the ``labels``. A
    result far outside is kept, with a warning (:mod:`KDSegmentatorLib.inference.sanity`).
    """

    cases: _Count
    smallest_ml: NotNegative
    largest_ml: NotNegative
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

    pack: PackId
    minimum_version: Version
    margin_mm: Annotated[float, Meta(ge=0, le=MAXIMUM_MARGIN_MM)]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The sliding window: size in voxels, step as a fraction of it, array axes that training mirrored."""

    patch_size: tuple[_Edge, _Edge, _Edge]
    step_fraction: _Fraction
    mirroring_axes: tuple[_Axis, ...]


@dataclass(frozen=True, kw_only=True)
class ReducedPrecision:
    """A number format that costs next to no accuracy with this network, as measured before it was written here.

    ``body`` is the network in this format (int8), or the float32 network that an engine converts itself (bfloat16).
    ``mean_dice_loss`` and ``largest_dice_loss`` (that of the label which loses most) are float32's Dice minus this
    format's over ``cases`` held-out cases; negative if it gained. ``probe_agreement`` is the share of the probe's
    foreground voxels with float32's label, in [0, 1]: what another machine has to reach too.
    """

    precision: ReducedFormat
    body: _FileName
    mean_dice_loss: _Difference
    largest_dice_loss: _Difference
    cases: _Count
    probe_agreement: _Unit


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network's cost and parts.

    ``features`` is the number of channels that enter the last 1x1x1 convolution (the head). ``flops_per_window`` counts
    2 x multiply-accumulate of all convolutions for one patch, head included. ``body`` computes in float32; ``probe`` is
    one real window with the labels that float32 gives it, to check other engines and number formats against.
    """

    architecture: Line
    alpha: _Fraction
    parameters: _Count
    flops_per_window: _Count
    features: Annotated[int, Meta(ge=1, le=65536)]
    body: _FileName
    opset: Annotated[int, Meta(ge=1, le=1000)]
    head: _FileName
    probe: _FileName | None = None
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

    value: LabelValue
    dice: Interval
    nsd: Interval | None = None
    hd95_mm: Interval | None = None
    teacher_dice: _Unit | None = None
    teacher_nsd: _Unit | None = None
    teacher_hd95_mm: NotNegative | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy on cases that training did not see, measured through this library's own pipeline.

    ``teacher_mean_dice`` is the teacher's on the same cases; for the teacher itself it equals ``mean_dice.mean``. NSD
    is the share of both surfaces within ``nsd_tolerance_mm`` of each other, of surface voxels or of sub-voxel patches
    weighted by area (``nsd_surface``). Where a label is in one of both segmentations only, Dice and NSD are 0 and the
    infinite HD95 counts as the diagonal of the image: ``hd95_replaced`` times.
    """

    dataset: Line
    split: Line
    cases: _Count
    mirroring: bool
    mean_dice: Interval
    labels: tuple[LabelScore, ...]
    teacher_mean_dice: _Unit | None
    mean_nsd: Interval | None = None
    mean_hd95_mm: Interval | None = None
    teacher_mean_nsd: _Unit | None = None
    teacher_mean_hd95_mm: NotNegative | None = None
    nsd_tolerance_mm: NotNegative | None = None
    nsd_surface: SurfaceKind | None = None
    hd95_replaced: _Whole | None = None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the weights come from.

    ``temperature`` and ``weight`` are those of logit distillation, if that is among the losses; ``losses`` names all of
    them with their settings as text (packs of earlier versions have none). ``created`` is an ISO 8601 date;
    ``versions`` maps package to version: in the training's environment if the checkpoint says so, and, marked with
    `` (export)``, in that of the export. Earlier packs have those of the export without the mark.
    """

    method: Method
    checkpoint_sha256: Sha256
    teacher_sha256: Sha256 | None
    temperature: _Above0 | None
    weight: NotNegative | None
    seed: _Whole | None
    iterations: _Whole | None
    created: _Day
    versions: dict[Line, Line]
    losses: dict[_Loss, dict[Line, Line]] | None = None


@dataclass(frozen=True, kw_only=True)
class Credit:
    """A licence (SPDX identifier) and whom to credit for what."""

    license: _Licence
    text: LongText


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size in bytes and SHA-256 (lower-case hex) of a file in the pack."""

    size: Annotated[int, Meta(ge=0, le=MAXIMUM_FILE_BYTES)]
    sha256: Sha256


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

    schema_version: Annotated[int, Meta(ge=1)]
    id: PackId
    version: Version
    task: Task
    title: Line
    size: Size
    recommended: bool = False
    modality: Modality
    body_part: Line
    labels: Annotated[tuple[Label, ...], Meta(min_length=1)]
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
    intended_use: LongText
    limits: LongText
    files: Annotated[dict[_FileName, FileRecord], Meta(min_length=2)]

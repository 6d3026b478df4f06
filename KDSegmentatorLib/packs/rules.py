"""What the fields of a manifest have to satisfy: single fields as a table, the rest as functions."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable

from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import check_axis_codes
from KDSegmentatorLib.packs.manifest import (
    Code,
    Credit,
    Evaluation,
    Expected,
    ExpectedLabel,
    ExpectedPair,
    FieldOfView,
    FileRecord,
    Interval,
    Label,
    LabelScore,
    Manifest,
    Network,
    Normalization,
    Preprocessing,
    Provenance,
    ReducedPrecision,
    Region,
    Resampling,
    Windows,
)
from KDSegmentatorLib.packs.names import FILE_NAME_MEANING, FILE_NAME_PATTERN, MANIFEST_NAME, is_reserved
from KDSegmentatorLib.packs.strict_json import FieldError, Rule, Rules, shown

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

_ALPHA_TOLERANCE = 1e-3
_INTERVAL_TOLERANCE = 1e-6

# Control characters could steer a terminal or a CSV, direction overrides could make a name read as another, and lone
# surrogates cannot be written as UTF-8.
_UNPRINTABLE = r"\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_LINE = rf"[^\s{_UNPRINTABLE}][^\n{_UNPRINTABLE}]*"
_PARAGRAPHS = rf"[^\s{_UNPRINTABLE}][^{_UNPRINTABLE}]*"
_NUMBER = r"(0|[1-9][0-9]{0,8})"

TEXT = Rule(pattern=_LINE, max_length=500, meaning="one line of printable text that does not start with a blank")
"""Every text that has no rule of its own."""

_LONG_TEXT = Rule(pattern=_PARAGRAPHS, max_length=20_000, meaning="printable text that does not start with a blank")
_SHA256 = Rule(pattern=r"[0-9a-f]{64}", meaning="64 lower-case hexadecimal digits")
_FILE_NAME = Rule(pattern=FILE_NAME_PATTERN, meaning=FILE_NAME_MEANING)
_COUNT = Rule(minimum=1, maximum=2**63 - 1)
_FRACTION = Rule(above=0, maximum=1)
_AXES = Rule(minimum=0, maximum=2, unique=True)
_SPLINE_ORDER = Rule(minimum=0, maximum=5)
_NOT_NEGATIVE = Rule(minimum=0)
_FARTHEST_MM = 3000.0  # more than a person is long
_UNIT = Rule(minimum=0, maximum=1)
_DIFFERENCE = Rule(minimum=-1, maximum=1)

SIZE_PATTERN = r"x1(/([2-9]|[1-9][0-9]{1,2}))?"
TASK_PATTERN = r"[a-z0-9]+(-[a-z0-9]+)*"
ID_PATTERN = r"[a-z0-9]+(-[a-z0-9]+)*-x1(_([2-9]|[1-9][0-9]{1,2}))?"
METHOD_PATTERN = r"[a-z0-9]+(-[a-z0-9]+)*"
VERSION_PATTERN = rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"

_ID = Rule(pattern=ID_PATTERN, max_length=80, meaning="task, '-' and size with '_' for '/', like 'hippocampus-x1_4'")
_VERSION = Rule(pattern=VERSION_PATTERN, meaning="major.minor.patch, like '1.0.2'")

METHOD = Rule(pattern=METHOD_PATTERN, max_length=40, meaning="a method's name, like 'logit-reco'")

UNDISTILLED = ("teacher", "plain")
"""Methods without a teacher."""

RULES: Rules = {
    (Manifest, "schema_version"): Rule(minimum=1),
    (Manifest, "id"): _ID,
    (Manifest, "version"): _VERSION,
    (Manifest, "task"): Rule(
        pattern=TASK_PATTERN, max_length=64, meaning="lower-case letters and digits with single '-' between"
    ),
    (Manifest, "size"): Rule(pattern=SIZE_PATTERN, meaning="'x1', 'x1/2', 'x1/4', ..."),
    (Manifest, "labels"): Rule(min_items=1),
    (Manifest, "intended_use"): _LONG_TEXT,
    (Manifest, "limits"): _LONG_TEXT,
    (Manifest, "files"): Rule(min_items=2, keys=_FILE_NAME),
    (Code, "scheme"): Rule(pattern=_LINE, max_length=16, meaning="a coding scheme, like 'SCT'"),
    (Code, "value"): Rule(pattern=_LINE, max_length=64, meaning="a code"),
    (Code, "meaning"): Rule(pattern=_LINE, max_length=64, meaning="a code's meaning"),
    (Label, "value"): Rule(minimum=1, maximum=MAXIMUM_LABELS),
    (Label, "name"): Rule(
        pattern=_LINE, max_length=64, meaning="one line of printable text that does not start with a blank"
    ),
    (Label, "color"): Rule(minimum=0, maximum=255),
    (Normalization, "std"): Rule(above=0),
    (Resampling, "order"): _SPLINE_ORDER,
    (Resampling, "order_z"): _SPLINE_ORDER,
    (Preprocessing, "axis_codes"): Rule(pattern=r"[LRPASI]{3}", meaning="axis codes, like 'LPS'"),
    (Preprocessing, "transpose_forward"): _AXES,
    (Preprocessing, "spacing"): Rule(above=0),
    (FieldOfView, "smallest"): Rule(above=0),
    (FieldOfView, "largest"): Rule(above=0),
    (Expected, "cases"): _COUNT,
    (Expected, "smallest_ml"): _NOT_NEGATIVE,
    (Expected, "largest_ml"): _NOT_NEGATIVE,
    (ExpectedLabel, "cases"): _COUNT,
    (ExpectedLabel, "at_edge"): _NOT_NEGATIVE,
    (ExpectedLabel, "smallest_ml"): Rule(above=0),
    (ExpectedLabel, "largest_ml"): Rule(above=0),
    (ExpectedLabel, "place"): Rule(minimum=-_FARTHEST_MM, maximum=_FARTHEST_MM),
    (ExpectedLabel, "displacement"): Rule(minimum=0, maximum=_FARTHEST_MM),
    (ExpectedPair, "largest_difference"): Rule(minimum=0, maximum=2),
    (Region, "pack"): _ID,
    (Region, "minimum_version"): _VERSION,
    (Region, "margin_mm"): Rule(minimum=0, maximum=MAXIMUM_MARGIN_MM),
    (Windows, "patch_size"): Rule(minimum=1, maximum=1024),
    (Windows, "step_fraction"): _FRACTION,
    (Windows, "mirroring_axes"): _AXES,
    (Network, "alpha"): _FRACTION,
    (Network, "parameters"): _COUNT,
    (Network, "flops_per_window"): _COUNT,
    (Network, "features"): Rule(minimum=1, maximum=65536),
    (Network, "body"): _FILE_NAME,
    (Network, "opset"): Rule(minimum=1, maximum=1000),
    (Network, "head"): _FILE_NAME,
    (Network, "probe"): _FILE_NAME,
    (ReducedPrecision, "body"): _FILE_NAME,
    (ReducedPrecision, "mean_dice_loss"): _DIFFERENCE,
    (ReducedPrecision, "largest_dice_loss"): _DIFFERENCE,
    (ReducedPrecision, "cases"): _COUNT,
    (ReducedPrecision, "probe_agreement"): _UNIT,
    (LabelScore, "value"): Rule(minimum=1, maximum=MAXIMUM_LABELS),
    (Evaluation, "cases"): _COUNT,
    (LabelScore, "teacher_dice"): _UNIT,
    (LabelScore, "teacher_nsd"): _UNIT,
    (LabelScore, "teacher_hd95_mm"): _NOT_NEGATIVE,
    (Evaluation, "teacher_mean_dice"): _UNIT,
    (Evaluation, "teacher_mean_nsd"): _UNIT,
    (Evaluation, "teacher_mean_hd95_mm"): _NOT_NEGATIVE,
    (Evaluation, "nsd_tolerance_mm"): _NOT_NEGATIVE,
    (Evaluation, "hd95_replaced"): _NOT_NEGATIVE,
    (Provenance, "method"): METHOD,
    (Provenance, "checkpoint_sha256"): _SHA256,
    (Provenance, "teacher_sha256"): _SHA256,
    (Provenance, "temperature"): Rule(above=0),
    (Provenance, "weight"): _NOT_NEGATIVE,
    (Provenance, "seed"): _NOT_NEGATIVE,
    (Provenance, "iterations"): _NOT_NEGATIVE,
    (Provenance, "losses"): Rule(keys=Rule(pattern=r"[a-z0-9_]+", max_length=40, meaning="a name, like 'ms_sard'")),
    (Provenance, "created"): Rule(pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}", meaning="a date, like '2026-11-30'"),
    (Credit, "license"): Rule(
        pattern=r"[A-Za-z0-9.+()-]+( [A-Za-z0-9.+()-]+)*", max_length=200, meaning="an SPDX licence expression"
    ),
    (Credit, "text"): _LONG_TEXT,
    (FileRecord, "size"): Rule(minimum=0, maximum=MAXIMUM_FILE_BYTES),
    (FileRecord, "sha256"): _SHA256,
}


def check(manifest: Manifest) -> None:
    """Check what single fields cannot tell: that the parts of a manifest agree.

    Raises:
        FieldError: they do not.
    """
    _check_identity(manifest)
    _check_labels(manifest.labels)
    _check_preprocessing(manifest.preprocessing)
    if manifest.field_of_view is not None:
        _check_field_of_view(manifest.field_of_view)
    if manifest.expected is not None:
        _check_expected(manifest.expected, {label.value for label in manifest.labels})
    _check_single_pieces(manifest)
    if manifest.region is not None and manifest.region.pack == manifest.id:
        raise FieldError("region.pack", f"must be another pack than {manifest.id} itself")
    _check_network(manifest)
    _check_files(manifest)
    _check_provenance(manifest.provenance)
    if manifest.evaluation is not None:
        _check_evaluation(manifest.evaluation, {label.value for label in manifest.labels})


def _check_identity(manifest: Manifest) -> None:
    expected = pack_id(manifest.task, manifest.size)
    if manifest.id != expected:
        raise FieldError("id", f"must be {expected!r} for task {manifest.task!r} and size {manifest.size!r}")


def pack_id(task: str, size: str) -> str:
    """Return the id of a task's pack of that size: ``hippocampus`` and ``x1/4`` give ``hippocampus-x1_4``."""
    return f"{task}-{name_part(size)}"


def name_part(size: str) -> str:
    """Return the size as part of file and pack names: ``x1_4`` for ``x1/4``."""
    return size.replace("/", "_")


def is_size(size: str) -> bool:
    """Return whether this is the name of a size: ``x1``, ``x1/2``, ..., ``x1/999``."""
    return re.fullmatch(SIZE_PATTERN, size) is not None


def divisor(size: str) -> int:
    """Return 1 for ``x1``, 4 for ``x1/4``."""
    return int(size.partition("/")[2] or 1)


def version_key(version: str) -> tuple[int, ...]:
    """Return something that sorts versions from old to new."""
    return tuple(int(part) for part in version.split("."))


def _check_labels(labels: tuple[Label, ...]) -> None:
    values = [label.value for label in labels]
    _check_unique(values, "labels", "value")
    _check_unique([label.name.casefold() for label in labels], "labels", "name")
    for n, value in enumerate(values):
        # row v of the head belongs to label value v
        if value > len(values):
            raise FieldError(f"labels[{n}].value", f"must be one of 1 to {len(values)}, one a label, got {value}")


def _check_unique(values: Iterable[object], path: str, name: str) -> None:
    first: dict[object, int] = {}
    for n, value in enumerate(values):
        if value in first:
            raise FieldError(f"{path}[{n}].{name}", f"is the same as that of {path}[{first[value]}]: {shown(value)}")
        first[value] = n


def _check_preprocessing(preprocessing: Preprocessing) -> None:
    try:
        check_axis_codes(preprocessing.axis_codes)
    except GeometryError as error:
        raise FieldError("preprocessing.axis_codes", str(error)) from None
    normalization = preprocessing.normalization
    low, high = normalization.percentile_00_5, normalization.percentile_99_5
    if normalization.scheme == "CT":
        for name in ("mean", "std", "percentile_00_5", "percentile_99_5"):
            if getattr(normalization, name) is None:
                raise FieldError(f"preprocessing.normalization.{name}", "missing; CT normalisation needs it")
    if low is not None and high is not None and low >= high:
        raise FieldError("preprocessing.normalization.percentile_99_5", f"must be above percentile_00_5 ({low})")


def _check_single_pieces(manifest: Manifest) -> None:
    values = {label.value for label in manifest.labels}
    for n, value in enumerate(manifest.single_pieces):
        if value not in values:
            raise FieldError(f"single_pieces[{n}]", f"there is no label {value}")
    if len(set(manifest.single_pieces)) != len(manifest.single_pieces):
        raise FieldError("single_pieces", f"each label may come once, got {list(manifest.single_pieces)}")


def _check_field_of_view(field_of_view: FieldOfView) -> None:
    for axis, (low, high) in enumerate(zip(field_of_view.smallest, field_of_view.largest, strict=True)):
        if low > high:
            raise FieldError(f"field_of_view.smallest[{axis}]", f"must not be above the largest ({high}), got {low}")


def _check_expected(expected: Expected, values: set[int]) -> None:
    _check_range(expected, "expected")
    _check_unique([label.value for label in expected.labels], "expected.labels", "value")
    for n, label in enumerate(expected.labels):
        path = f"expected.labels[{n}]"
        if label.value not in values:
            raise FieldError(f"{path}.value", f"there is no label {label.value}")
        if label.cases > expected.cases:
            raise FieldError(f"{path}.cases", f"must not be above all cases ({expected.cases}), got {label.cases}")
        if label.at_edge > label.cases:
            raise FieldError(f"{path}.at_edge", f"must not be above its cases ({label.cases}), got {label.at_edge}")
        _check_range(label, path)
    paired: set[int] = set()
    for n, pair in enumerate(expected.pairs):
        for name in ("left", "right"):
            value = getattr(pair, name)
            if value not in values:
                raise FieldError(f"expected.pairs[{n}].{name}", f"there is no label {value}")
            if value in paired:
                raise FieldError(f"expected.pairs[{n}].{name}", f"the label {value} has its pair already")
            paired.add(value)


def _check_range(volumes: Expected | ExpectedLabel, path: str) -> None:
    if volumes.smallest_ml > volumes.largest_ml:
        raise FieldError(
            f"{path}.smallest_ml",
            f"must not be above the largest ({volumes.largest_ml}), got {volumes.smallest_ml}",
        )


def _check_network(manifest: Manifest) -> None:
    network = manifest.network
    if not math.isclose(network.alpha, 1 / divisor(manifest.size), rel_tol=_ALPHA_TOLERANCE):
        raise FieldError("network.alpha", f"does not fit the size {manifest.size!r}: {network.alpha}")
    parts = [("body", network.body, ".onnx"), ("head", network.head, ".npz")]
    if network.probe is not None:
        parts.append(("probe", network.probe, ".npz"))
    for n, reduced in enumerate(network.reduced_precisions):
        parts.append((f"reduced_precisions[{n}].body", reduced.body, ".onnx"))
    for name, file, suffix in parts:
        if file not in manifest.files:
            raise FieldError(f"network.{name}", f"{file!r} is not listed in files")
        if not file.endswith(suffix):
            raise FieldError(f"network.{name}", f"must end in {suffix}, got {file!r}")
    _check_unique([each.precision for each in network.reduced_precisions], "network.reduced_precisions", "precision")
    if network.reduced_precisions and network.probe is None:
        raise FieldError("network.probe", "missing; reduced precisions are checked against it")
    window = 4 * network.features * math.prod(manifest.windows.patch_size)
    if window > MAXIMUM_WINDOW_BYTES:
        raise FieldError(
            "windows.patch_size",
            f"with {network.features} features one window needs {window:,} bytes, more than {MAXIMUM_WINDOW_BYTES:,}",
        )


def _check_files(manifest: Manifest) -> None:
    seen: dict[str, str] = {}
    for name in manifest.files:
        path = f"files[{shown(name)}]"
        folded = name.casefold()
        if folded == MANIFEST_NAME:
            raise FieldError(path, "the manifest cannot list itself")
        if is_reserved(name):
            raise FieldError(path, "Windows reserves this name for a device; rename the file")
        if folded in seen:
            raise FieldError(path, f"differs from {seen[folded]!r} in upper and lower case only; rename one")
        seen[folded] = name
    if len(manifest.files) > MAXIMUM_FILES:
        raise FieldError("files", f"must have at most {MAXIMUM_FILES} entries, has {len(manifest.files)}")
    total = sum(record.size for record in manifest.files.values())
    if total > MAXIMUM_PACK_BYTES:
        raise FieldError("files", f"must be at most {MAXIMUM_PACK_BYTES:,} bytes together, are {total:,}")


def _check_provenance(provenance: Provenance) -> None:
    try:
        datetime.date.fromisoformat(provenance.created)
    except ValueError:
        raise FieldError("provenance.created", f"is not a day of the calendar: {provenance.created!r}") from None
    needed: tuple[str, ...] = ()
    if provenance.method not in UNDISTILLED:
        needed = ("teacher_sha256", "temperature", "weight") if provenance.method == "logit" else ("teacher_sha256",)
    for name in needed:
        if getattr(provenance, name) is None:
            raise FieldError(f"provenance.{name}", "missing; a distilled student needs it")


def _check_evaluation(evaluation: Evaluation, values: set[int]) -> None:
    _check_unique([score.value for score in evaluation.labels], "evaluation.labels", "value")
    _check_interval(evaluation.mean_dice, "evaluation.mean_dice", maximum=1)
    _check_interval(evaluation.mean_nsd, "evaluation.mean_nsd", maximum=1)
    _check_interval(evaluation.mean_hd95_mm, "evaluation.mean_hd95_mm")
    for n, score in enumerate(evaluation.labels):
        if score.value not in values:
            raise FieldError(f"evaluation.labels[{n}].value", f"there is no label {score.value}")
        _check_interval(score.dice, f"evaluation.labels[{n}].dice", maximum=1)
        _check_interval(score.nsd, f"evaluation.labels[{n}].nsd", maximum=1)
        _check_interval(score.hd95_mm, f"evaluation.labels[{n}].hd95_mm")
    if evaluation.mean_nsd is not None:
        for name in ("nsd_tolerance_mm", "nsd_surface"):
            if getattr(evaluation, name) is None:
                raise FieldError(f"evaluation.{name}", "missing; NSD means nothing without it")


def _check_interval(interval: Interval | None, path: str, maximum: float = math.inf) -> None:
    if interval is None:
        return
    if not 0 <= interval.mean <= maximum:
        limits = "0 or more" if maximum == math.inf else f"from 0 to {maximum:g}"
        raise FieldError(f"{path}.mean", f"must be {limits}, got {interval.mean}")
    if not interval.low - _INTERVAL_TOLERANCE <= interval.mean <= interval.high + _INTERVAL_TOLERANCE:
        raise FieldError(
            path, f"the mean {interval.mean} is not inside the interval from {interval.low} to {interval.high}"
        )

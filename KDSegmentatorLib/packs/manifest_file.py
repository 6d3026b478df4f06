"""``manifest.json`` to :class:`Manifest` and back, checked in all that single fields cannot tell."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Iterable
from typing import Any

from KDSegmentatorLib.errors import GeometryError, ManifestError
from KDSegmentatorLib.geometry import check_axis_codes
from KDSegmentatorLib.packs.manifest import (
    MAXIMUM_FILES,
    MAXIMUM_PACK_BYTES,
    MAXIMUM_WINDOW_BYTES,
    SCHEMA_VERSION,
    UNDISTILLED,
    Evaluation,
    Expected,
    ExpectedLabel,
    FieldOfView,
    Interval,
    Label,
    Manifest,
    Preprocessing,
    Provenance,
)
from KDSegmentatorLib.packs.names import MANIFEST_NAME, divisor, is_reserved, pack_id
from KDSegmentatorLib.packs.strict_json import FieldError, build, parse, required, shown

_ALPHA_TOLERANCE = 1e-3
_INTERVAL_TOLERANCE = 1e-6
_REMEDY = "get an intact copy of the pack, or correct the manifest if the pack is yours"


def read_manifest(text: str, where: str) -> Manifest:
    """Return the manifest that a JSON text describes.

    Args:
        text: the JSON document.
        where: file or pack that it comes from, for error messages.

    Raises:
        ManifestError: not JSON, an unknown, missing or unusable field (the message names it, for example
            ``labels[2].color[1]``), parts that contradict each other, or a schema newer than this library.
    """
    try:
        document = parse(text)
        _check_schema_version(document)
        manifest = build(Manifest, document)
        _check_agreement(manifest)
    except FieldError as error:
        raise ManifestError(f"{where}: {error}; {_REMEDY}") from None
    except _NewerSchemaError as error:
        raise ManifestError(f"{where}: {error}") from None
    return manifest


def write_manifest(manifest: Manifest) -> str:
    """Return a manifest as JSON text that :func:`read_manifest` turns into an equal manifest.

    The text is stable: fields in the order of the classes, files and versions sorted by name, optional fields that are
    None left out, and ``recommended`` if it is not.

    Raises:
        ManifestError: the manifest is not valid; an invalid one is never written.
    """
    try:
        text = json.dumps(_plain(manifest), indent=2, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ManifestError(f"the manifest of {manifest.id!r} cannot be written as JSON: {error}") from error
    read_manifest(text, f"new manifest of {manifest.id!r}")
    return text


class _NewerSchemaError(Exception):
    pass


def _check_schema_version(document: Any) -> None:
    """Look at the version first: a newer manifest's other fields would only give misleading messages."""
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise _NewerSchemaError(
            f"schema_version: the pack uses schema {shown(version)}, this KDSegmentator reads up to "
            f"{SCHEMA_VERSION}; update KDSegmentator"
        )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(entry)
            for field in dataclasses.fields(value)
            if (entry := getattr(value, field.name)) is not None or required(field)
            if entry or field.name != "recommended"
        }
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value


def _check_agreement(manifest: Manifest) -> None:
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
    _check_axes(preprocessing.transpose_forward, "preprocessing.transpose_forward")
    normalization = preprocessing.normalization
    low, high = normalization.percentile_00_5, normalization.percentile_99_5
    if normalization.scheme == "CT":
        for name in ("mean", "std", "percentile_00_5", "percentile_99_5"):
            if getattr(normalization, name) is None:
                raise FieldError(f"preprocessing.normalization.{name}", "missing; CT normalisation needs it")
    if low is not None and high is not None and low >= high:
        raise FieldError("preprocessing.normalization.percentile_99_5", f"must be above percentile_00_5 ({low})")


def _check_axes(axes: tuple[int, ...], path: str) -> None:
    if len(set(axes)) != len(axes):
        raise FieldError(path, f"must not have a value twice, got {list(axes)}")


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
    _check_axes(manifest.windows.mirroring_axes, "windows.mirroring_axes")
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

from __future__ import annotations

import dataclasses
import json
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.errors import ManifestError
from KDSegmentatorLib.packs.manifest import (
    SCHEMA_VERSION,
    Expected,
    ExpectedLabel,
    ExpectedPair,
    FieldOfView,
    Interval,
    Manifest,
    Region,
)
from KDSegmentatorLib.packs.manifest_file import read_manifest, write_manifest

UNIT = {"mean": 0.5, "low": 0.4, "high": 0.6}
EXPECTED_LABEL = {"value": 1, "cases": 40, "at_edge": 2, "smallest_ml": 0.5, "largest_ml": 2.5}
EXPECTED_PAIR = {"left": 1, "right": 2, "largest_difference": 0.2}
EXPECTED = {"cases": 42, "smallest_ml": 1, "largest_ml": 5, "labels": [EXPECTED_LABEL], "pairs": [EXPECTED_PAIR]}
REDUCED = {
    "precision": "int8",
    "body": "body.onnx",
    "mean_dice_loss": -0.0001,
    "largest_dice_loss": 0.002,
    "cases": 42,
    "probe_agreement": 0.99,
}


def changed(document: dict[str, Any], path: str, value: Any) -> str:
    """Return the document as text with the value at a path such as ``labels/0/name`` replaced (... deletes it)."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place: Any = document
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document)


def test_written_manifests_are_read_back_equal(manifest: Manifest) -> None:
    text = write_manifest(manifest)
    assert read_manifest(text, "test") == manifest
    assert write_manifest(read_manifest(text, "test")) == text


def test_written_text_is_stable_and_short(manifest: Manifest) -> None:
    shuffled = dataclasses.replace(manifest, files=dict(reversed(manifest.files.items())))
    text = write_manifest(shuffled)
    assert text == write_manifest(manifest)
    document = json.loads(text)
    assert list(document)[:3] == ["schema_version", "id", "version"]
    assert "region" not in document["labels"][0]["terminology"]
    assert write_manifest(dataclasses.replace(manifest, evaluation=None)).count('"evaluation": null') == 1


def test_nsd_and_hd95_are_kept(kit: ModuleType) -> None:
    document = kit.document()
    far = {"mean": 3.5, "low": 2.5, "high": 40.0}
    document["evaluation"] |= {
        "mean_nsd": UNIT,
        "mean_hd95_mm": far,
        "teacher_mean_nsd": 0.9,
        "teacher_mean_hd95_mm": 3.0,
        "nsd_tolerance_mm": 1.0,
        "nsd_surface": "subvoxel",
        "hd95_replaced": 2,
    }
    document["evaluation"]["labels"][0] |= {"nsd": UNIT, "hd95_mm": far, "teacher_hd95_mm": 2.0}
    manifest = read_manifest(json.dumps(document), "test")
    assert manifest.evaluation is not None
    assert manifest.evaluation.labels[0].hd95_mm == Interval(mean=3.5, low=2.5, high=40.0)
    assert manifest.evaluation.labels[1].nsd is None
    assert json.loads(write_manifest(manifest))["evaluation"] == document["evaluation"]


def test_the_field_of_view_may_be_left_out(manifest: Manifest) -> None:
    """Packs of an earlier version do not have it."""
    assert manifest.field_of_view is None
    assert "field_of_view" not in write_manifest(manifest)
    known = dataclasses.replace(
        manifest, field_of_view=FieldOfView(smallest=(31.0, 40.0, 24.0), largest=(43.0, 40.0, 47.25))
    )
    assert read_manifest(write_manifest(known), "test") == known


def test_where_structures_are_is_kept(kit: ModuleType) -> None:
    label = EXPECTED_LABEL | {"intensity": -0.5, "place": [1.5, -20.0, 30.25], "displacement": 4.5}
    known = read_manifest(json.dumps(kit.document(expected=EXPECTED | {"labels": [label]})), "test")
    assert known.expected is not None
    assert (known.expected.labels[0].place, known.expected.labels[0].displacement) == ((1.5, -20.0, 30.25), 4.5)
    assert read_manifest(write_manifest(known), "test") == known


def test_what_to_expect_may_be_left_out(manifest: Manifest, kit: ModuleType) -> None:
    """Packs of an earlier version do not have it."""
    assert manifest.expected is None
    assert "expected" not in write_manifest(manifest)
    known = read_manifest(json.dumps(kit.document(expected=EXPECTED)), "test")
    assert known.expected == Expected(
        cases=42,
        smallest_ml=1.0,
        largest_ml=5.0,
        labels=(ExpectedLabel(value=1, cases=40, at_edge=2, smallest_ml=0.5, largest_ml=2.5),),
        pairs=(ExpectedPair(left=1, right=2, largest_difference=0.2),),
    )
    assert read_manifest(write_manifest(known), "test") == known


def test_a_pack_may_be_the_recommended_one_of_its_family(manifest: Manifest, kit: ModuleType) -> None:
    assert not manifest.recommended
    assert "recommended" not in write_manifest(manifest)
    known = read_manifest(json.dumps(kit.document(recommended=True)), "test")
    assert known.recommended
    assert read_manifest(write_manifest(known), "test") == known


def test_structures_in_one_piece_have_to_be_labels(kit: ModuleType) -> None:
    known = read_manifest(json.dumps(kit.document(single_pieces=[1])), "test")
    assert known.single_pieces == (1,)
    assert read_manifest(write_manifest(known), "test") == known
    for pieces, message in (([99], r"single_pieces\[0\]: there is no label 99"), ([1, 1], "each label may come once")):
        with pytest.raises(ManifestError, match=message):
            read_manifest(json.dumps(kit.document(single_pieces=pieces)), "test")


def test_an_earlier_stage_is_kept(manifest: Manifest) -> None:
    region = Region(pack="brain-extraction-x1_4", minimum_version="1.10.0", margin_mm=0.0)
    chained = dataclasses.replace(manifest, region=region)
    assert read_manifest(write_manifest(chained), "test") == chained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pack": "hippocampus-x1_4"}, "must be another pack than hippocampus-x1_4 itself"),
        ({"pack": "../other-x1_4"}, r"region\.pack: must be"),
        ({"minimum_version": "1"}, r"region\.minimum_version: must be major\.minor\.patch"),
        ({"margin_mm": -0.5}, r"region\.margin_mm: must be at least 0"),
        ({"margin_mm": 1e9}, r"region\.margin_mm: must be at most"),
    ],
)
def test_a_wrong_earlier_stage_is_named(kit: ModuleType, changes: dict[str, Any], message: str) -> None:
    region = {"pack": "brain-extraction-x1_4", "minimum_version": "1.0.0", "margin_mm": 2.0, **changes}
    with pytest.raises(ManifestError, match=message):
        read_manifest(json.dumps(kit.document(region=region)), "test")


def test_an_invalid_manifest_is_not_written(manifest: Manifest) -> None:
    with pytest.raises(
        ManifestError, match=r"new manifest of 'hippocampus-x1_4': version: must be major\.minor\.patch"
    ):
        write_manifest(dataclasses.replace(manifest, version="1"))
    spacing = dataclasses.replace(manifest.preprocessing, spacing=(1.0, float("nan"), 1.0))
    with pytest.raises(ManifestError, match=r"preprocessing\.spacing\[1\]: must be a finite number"):
        write_manifest(dataclasses.replace(manifest, preprocessing=spacing))
    with pytest.raises(ManifestError, match="cannot be written as JSON"):
        write_manifest(dataclasses.replace(manifest, title=object()))  # type: ignore[arg-type]


def test_a_newer_schema_says_update(kit: ModuleType) -> None:
    document = kit.document(schema_version=SCHEMA_VERSION + 1, something_new={"a": 1})
    del document["labels"]
    with pytest.raises(ManifestError, match=r"my\.json: schema_version: .* update KDSegmentator$"):
        read_manifest(json.dumps(document), "my.json")


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_a_senseless_schema_version(kit: ModuleType, version: Any) -> None:
    with pytest.raises(ManifestError, match="schema_version: must be"):
        read_manifest(json.dumps(kit.document(schema_version=version)), "test")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("labels/1/color/1", 256, r"labels\[1\]\.color\[1\]: must be at most 255"),
        ("labels/1/color/1", -1, r"labels\[1\]\.color\[1\]: must be at least 0"),
        ("labels/1/value", 1, r"labels\[1\]\.value: is the same as that of labels\[0\]"),
        ("labels/1/value", 3, r"labels\[1\]\.value: must be one of 1 to 2"),
        ("labels/1/value", 0, r"labels\[1\]\.value: must be at least 1"),
        ("labels/1/value", 65536, r"labels\[1\]\.value: must be at most 65535"),
        ("labels/1/name", "anterior", r"labels\[1\]\.name: is the same as that of labels\[0\]"),
        ("labels/1/name", "", r"labels\[1\]\.name: must be one line of printable text"),
        ("labels/1/name", "a\nb", r"labels\[1\]\.name: must be one line"),
        ("labels/1/name", "a\n", r"labels\[1\]\.name: must be one line"),
        ("labels/1/name", "\x1b[31mred", r"labels\[1\]\.name: must be one line"),
        ("labels/1/name", "a\u202eb", r"labels\[1\]\.name: must be one line"),
        ("labels/1/name", "a\ud800", r"labels\[1\]\.name: must be one line"),
        ("labels/1/terminology/type/scheme", "x" * 17, r"terminology\.type\.scheme: must have at most 16"),
        ("labels", [], "labels: must have at least 1"),
        ("id", "hippocampus-x1_2", "id: must be 'hippocampus-x1_4' for task"),
        ("id", "../x-x1_4", "id: must be task"),
        ("task", "Hippocampus", "task: must be lower-case"),
        ("task", "a--b", "task: must be lower-case"),
        ("size", "x2", "size: must be 'x1'"),
        ("size", "x1/1", "size: must be 'x1'"),
        ("size", "x1/2", "id: must be 'hippocampus-x1_2' for"),
        ("version", "1.0", "version: must be major"),
        ("version", "01.0.0", "version: must be major"),
        ("version", "1.0.0\n", "version: must be major"),
        ("modality", "PET", "modality: must be 'CT' or 'MR', got 'PET'"),
        ("preprocessing/axis_codes", "LRS", r"preprocessing\.axis_codes: axis codes must name"),
        ("preprocessing/axis_codes", "lps", r"preprocessing\.axis_codes: must be axis codes"),
        ("preprocessing/transpose_forward", [0, 1, 1], r"transpose_forward: must not have a value twice"),
        ("preprocessing/transpose_forward", [0, 1, 3], r"transpose_forward\[2\]: must be at most 2"),
        ("preprocessing/spacing/2", 0, r"spacing\[2\]: must be above 0"),
        ("preprocessing/spacing/2", float("nan"), r"spacing\[2\]: must be a finite number"),
        ("preprocessing/spacing", [1, 1], "spacing: must have 3 values"),
        ("preprocessing/image_resampling/order", 6, r"image_resampling\.order: must be at most 5"),
        ("preprocessing/normalization", {"scheme": "CT"}, r"normalization\.mean: missing; CT"),
        (
            "preprocessing/normalization",
            {"scheme": "CT", "mean": 1, "std": 0, "percentile_00_5": 0, "percentile_99_5": 1},
            r"normalization\.std: must be above 0",
        ),
        (
            "preprocessing/normalization",
            {"scheme": "CT", "mean": 1, "std": 1, "percentile_00_5": 2, "percentile_99_5": 1},
            r"normalization\.percentile_99_5: must be above percentile_00_5",
        ),
        (
            "field_of_view",
            {"smallest": [30, 40, 24], "largest": [40, 39.5, 47]},
            r"field_of_view\.smallest\[1\]: must not be above the largest \(39\.5\), got 40",
        ),
        ("field_of_view", {"smallest": [0, 40, 24], "largest": [40, 59, 47]}, r"smallest\[0\]: must be above 0"),
        ("field_of_view", {"smallest": [30, 40], "largest": [40, 59, 47]}, r"smallest: must have 3 values, has 2"),
        ("field_of_view", {"smallest": [30, 40, 24]}, r"field_of_view\.largest: missing"),
        ("expected", EXPECTED | {"cases": 0}, r"expected\.cases: must be at least 1"),
        ("expected", EXPECTED | {"smallest_ml": -1}, r"expected\.smallest_ml: must be at least 0"),
        ("expected", EXPECTED | {"smallest_ml": 6}, r"expected\.smallest_ml: must not be above the largest \(5\.0\)"),
        (
            "expected",
            EXPECTED | {"labels": [EXPECTED_LABEL | {"value": 9}]},
            r"labels\[0\]\.value: there is no label 9",
        ),
        ("expected", EXPECTED | {"labels": [EXPECTED_LABEL] * 2}, r"expected\.labels\[1\]\.value: is the same as that"),
        ("expected", EXPECTED | {"labels": [EXPECTED_LABEL | {"cases": 43}]}, r"not be above all cases \(42\), got 43"),
        ("expected", EXPECTED | {"labels": [EXPECTED_LABEL | {"at_edge": 41}]}, r"above its cases \(40\), got 41"),
        ("expected", EXPECTED | {"labels": [EXPECTED_LABEL | {"smallest_ml": 0}]}, r"smallest_ml: must be above 0"),
        ("expected", EXPECTED | {"labels": [EXPECTED_LABEL | {"smallest_ml": 3}]}, r"must not be above the largest"),
        (
            "expected",
            EXPECTED | {"labels": [EXPECTED_LABEL | {"place": [1.0, 1e308, 2.0]}]},
            r"place\[1\]: must be at most 3000",
        ),
        (
            "expected",
            EXPECTED | {"labels": [EXPECTED_LABEL | {"displacement": -1.0}]},
            r"displacement: must be at least 0",
        ),
        ("expected", EXPECTED | {"pairs": [EXPECTED_PAIR | {"right": 3}]}, r"pairs\[0\]\.right: there is no label 3"),
        ("expected", EXPECTED | {"pairs": [EXPECTED_PAIR | {"right": 1}]}, r"right: the label 1 has its pair already"),
        ("expected", EXPECTED | {"pairs": [EXPECTED_PAIR] * 2}, r"pairs\[1\]\.left: the label 1 has its pair already"),
        (
            "expected",
            EXPECTED | {"pairs": [EXPECTED_PAIR | {"largest_difference": 2.1}]},
            r"largest_difference: must be at most 2",
        ),
        ("windows/patch_size/0", 0, r"patch_size\[0\]: must be at least 1"),
        ("windows/step_fraction", 0, "step_fraction: must be above 0"),
        ("windows/step_fraction", 1.01, "step_fraction: must be at most 1"),
        ("windows/mirroring_axes", [0, 3], r"mirroring_axes\[1\]: must be at most 2"),
        ("windows/mirroring_axes", [0, 0], "mirroring_axes: must not have a value twice"),
        ("network/features", True, r"network\.features: must be a whole number, got True"),
        ("network/alpha", 0.5, r"network\.alpha: does not fit the size 'x1/4'"),
        ("network/body", "other.onnx", r"network\.body: 'other\.onnx' is not listed in files"),
        ("network/body", "../body.onnx", r"network\.body: must be a plain file name"),
        ("network/body", "head.npz", r"network\.body: must end in \.onnx"),
        ("network/head", "body.onnx", r"network\.head: must end in \.npz"),
        ("network/probe", "probe.npz", r"network\.probe: 'probe\.npz' is not listed in files"),
        ("network/reduced_precisions", [{**REDUCED, "precision": "fp8"}], r"precision: must be 'bfloat16' or 'int8'"),
        (
            "network/reduced_precisions",
            [{**REDUCED, "body": "b.onnx"}],
            r"reduced_precisions\[0\]\.body: 'b\.onnx' is not listed",
        ),
        ("network/reduced_precisions", [REDUCED, REDUCED], r"reduced_precisions\[1\]\.precision: is the same"),
        ("network/reduced_precisions", [REDUCED], r"network\.probe: missing"),
        ("evaluation/mean_dice/mean", 1.2, r"evaluation\.mean_dice\.mean: must be from 0 to 1"),
        ("evaluation/mean_dice/low", 0.89, r"evaluation\.mean_dice: the mean 0\.88 is not inside"),
        ("evaluation/mean_nsd", UNIT, r"evaluation\.nsd_tolerance_mm: missing; NSD"),
        ("evaluation/mean_nsd", {**UNIT, "mean": 1.1}, r"evaluation\.mean_nsd\.mean: must be from 0 to 1"),
        ("evaluation/mean_hd95_mm", {**UNIT, "mean": -1}, r"evaluation\.mean_hd95_mm\.mean: must be 0 or more"),
        ("evaluation/labels/1/hd95_mm", {**UNIT, "high": 0.1}, r"labels\[1\]\.hd95_mm: the mean 0\.5 is not inside"),
        ("evaluation/labels/1/teacher_nsd", 1.5, r"labels\[1\]\.teacher_nsd: must be at most 1"),
        ("evaluation/nsd_surface", "mesh", r"nsd_surface: must be 'voxels' or 'subvoxel'"),
        ("evaluation/labels/0/value", 3, r"evaluation\.labels\[0\]\.value: there is no label 3"),
        ("evaluation/labels/0/value", 2, r"evaluation\.labels\[1\]\.value: is the same"),
        ("provenance/created", "2026-02-30", r"provenance\.created: is not a day"),
        ("provenance/created", "yesterday", r"provenance\.created: must be a date"),
        ("provenance/checkpoint_sha256", "A" * 64, "checkpoint_sha256: must be 64 lower-case"),
        ("provenance/teacher_sha256", None, r"provenance\.teacher_sha256: missing; a distilled student"),
        ("provenance/temperature", 0, "temperature: must be above 0"),
        ("provenance/method", "../plain", r"provenance\.method: must be a method's name"),
        ("provenance/losses", {"a b": {}}, "must be a name, like 'ms_sard'"),
        ("weights/license", "", r"weights\.license: must be an SPDX"),
        ("files/body.onnx/sha256", "a" * 63, r"files\['body\.onnx'\]\.sha256: must be 64"),
        ("files/body.onnx/size", (1 << 30) + 1, r"files\['body\.onnx'\]\.size: must be at most"),
        ("title", ..., "title: missing"),
        ("evaluation", ..., "evaluation: missing"),
        ("sneaky", 1, "sneaky: unknown field"),
    ],
)
def test_a_wrong_field_is_named(kit: ModuleType, path: str, value: Any, message: str) -> None:
    with pytest.raises(ManifestError, match=f"^pack/manifest.json: .*{message}"):
        read_manifest(changed(kit.document(), path, value), "pack/manifest.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.onnx", "plain file name"),
        ("a/b.onnx", "plain file name"),
        ("a\\b.onnx", "plain file name"),
        ("C:evil.onnx", "plain file name"),
        ("..", "plain file name"),
        (".hidden.txt", "plain file name"),
        ("run.py", "plain file name"),
        ("run.txt.exe", "plain file name"),
        ("a.txt ", "plain file name"),
        ("a.txt.", "plain file name"),
        ("größe.txt", "plain file name"),
        ("a" * 100 + ".txt", "plain file name"),
        ("NUL.txt", "Windows reserves"),
        ("com1.foo.txt", "Windows reserves"),
        ("manifest.json", "cannot list itself"),
        ("Manifest.JSON", "plain file name"),
        ("Manifest.json", "cannot list itself"),
        ("BODY.onnx", "upper and lower case"),
    ],
)
def test_unsafe_file_names(kit: ModuleType, name: str, message: str) -> None:
    document = kit.document()
    document["files"][name] = document["files"]["head.npz"]
    with pytest.raises(ManifestError, match=message):
        read_manifest(json.dumps(document), "test")


def test_limits_of_the_whole_pack(kit: ModuleType) -> None:
    document = kit.document()
    document["files"].update({f"{n}.txt": {"size": 1, "sha256": "0" * 64} for n in range(31)})
    with pytest.raises(ManifestError, match="files: must have at most 32 entries, has 33"):
        read_manifest(json.dumps(document), "test")
    document = kit.document()
    document["files"].update({f"{n}.txt": {"size": 1 << 30, "sha256": "0" * 64} for n in range(3)})
    with pytest.raises(ManifestError, match="bytes together"):
        read_manifest(json.dumps(document), "test")


def test_a_ct_pack_a_teacher_and_a_pack_without_evaluation(kit: ModuleType) -> None:
    document = kit.document(modality="CT", id="head-neck-ct-x1", task="head-neck-ct", size="x1", evaluation=None)
    numbers = {"mean": 40.5, "std": 200, "percentile_00_5": -900, "percentile_99_5": 1500.25}
    document["preprocessing"]["normalization"] = {"scheme": "CT", "use_mask": False, **numbers}
    document["network"]["alpha"] = 1
    document["provenance"].update(method="teacher", teacher_sha256=None, temperature=None, weight=None, seed=None)
    manifest = read_manifest(json.dumps(document), "test")
    assert manifest.preprocessing.normalization.percentile_99_5 == 1500.25
    assert read_manifest(write_manifest(manifest), "test") == manifest


def test_a_pack_of_another_method_says_which_losses_made_it(kit: ModuleType) -> None:
    document = kit.document()
    losses = {"ms_sard": {"weight": "0.01", "ramp": "0.6"}, "ms_ca": {"form": "context"}}
    document["provenance"].update(method="reco", temperature=None, weight=None, losses=losses)
    manifest = read_manifest(json.dumps(document), "test")
    assert (manifest.provenance.method, manifest.provenance.losses) == ("reco", losses)
    assert read_manifest(write_manifest(manifest), "test") == manifest
    document["provenance"]["teacher_sha256"] = None
    with pytest.raises(ManifestError, match=r"provenance\.teacher_sha256: missing; a distilled student"):
        read_manifest(json.dumps(document), "test")


def test_a_pack_of_an_earlier_version_names_no_losses(kit: ModuleType) -> None:
    assert read_manifest(json.dumps(kit.document()), "test").provenance.losses is None


def test_duplicate_keys_are_refused(kit: ModuleType) -> None:
    text = json.dumps(kit.document()).replace('"title":', '"version": "9.9.9", "title":')
    with pytest.raises(ManifestError, match="the key 'version' occurs twice"):
        read_manifest(text, "test")


def test_a_text_of_the_largest_length_is_refused_quickly(kit: ModuleType) -> None:
    with pytest.raises(ManifestError, match="limits: must be printable"):
        read_manifest(json.dumps(kit.document(limits="x" * 19_999 + "\x00")), "test")


def test_every_truncation_is_refused(kit: ModuleType) -> None:
    text = json.dumps(kit.document())
    for length in range(0, len(text), 7):
        with pytest.raises(ManifestError, match="not valid JSON"):
            read_manifest(text[:length], "test")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_text_is_read_or_refused_with_a_manifest_error(kit: ModuleType, data: st.DataObject) -> None:
    text = json.dumps(kit.document())
    position = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:position] + data.draw(st.text(max_size=3)) + text[position + data.draw(st.integers(0, 5)) :]
    try:
        manifest = read_manifest(damaged, "test")
    except ManifestError:
        return
    assert read_manifest(write_manifest(manifest), "test") == manifest


def test_windows_beyond_the_memory_of_a_computer_are_refused(kit: ModuleType) -> None:
    windows = {"step_fraction": 0.5, "mirroring_axes": []}
    largest = {**windows, "patch_size": [1024, 512, 512]}  # 4 features, 4 bytes each: 4 GiB
    read_manifest(json.dumps(kit.document(windows=largest)), "test")
    with pytest.raises(
        ManifestError, match=r"windows\.patch_size: with 4 features one window needs 4,303,355,904 bytes"
    ):
        read_manifest(json.dumps(kit.document(windows={**windows, "patch_size": [1024, 513, 512]})), "test")

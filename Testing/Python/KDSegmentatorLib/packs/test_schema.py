"""The JSON Schema beside the manifest's classes says the same as the reader, as far as a schema can say it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.errors import ManifestError
from KDSegmentatorLib.packs.reader import read_manifest
from KDSegmentatorLib.packs.schema import SCHEMA_PATH, schema_text

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install 'kdsegmentator[dev]'")

Path = tuple[str | int, ...]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def reads(document: Any) -> bool:
    try:
        read_manifest(json.dumps(document), "test")
    except ManifestError:
        return False
    return True


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def with_value(document: Any, path: Path, value: Any) -> Any:
    document = copy.deepcopy(document)
    if not path:
        return value
    at(document, path[:-1])[path[-1]] = value
    return document


def without(document: Any, path: Path) -> Any:
    document = copy.deepcopy(document)
    del at(document, path[:-1])[path[-1]]
    return document


def test_the_file_is_what_the_classes_say() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text(), "run python -m KDSegmentatorLib.packs.schema"


def test_valid_manifests_pass_both(kit: ModuleType, validator: Any) -> None:
    teacher = kit.document(evaluation=None, id="hippocampus-x1", size="x1")
    teacher["network"]["alpha"] = 1
    teacher["provenance"].update(method="teacher", teacher_sha256=None, temperature=None, weight=None)
    ct = kit.document()
    ct["preprocessing"]["normalization"] = {
        "scheme": "CT",
        "mean": 1,
        "std": 2,
        "percentile_00_5": -3.5,
        "percentile_99_5": 4,
    }
    for document in (kit.document(), teacher, ct):
        assert reads(document)
        validator.validate(document)


def test_a_deleted_field_is_judged_alike(kit: ModuleType, validator: Any) -> None:
    document = kit.document()
    for path in places(document):
        # deleting a whole label or file breaks the agreement of parts, which a schema cannot express
        if path and path[0] != "files" and not isinstance(path[-1], int):
            damaged = without(document, path)
            assert reads(damaged) == validator.is_valid(damaged), path


def test_an_unknown_field_is_refused_by_both_everywhere(kit: ModuleType, validator: Any) -> None:
    document = kit.document()
    for path in places(document):
        if isinstance(at(document, path), dict) and path[-1:] != ("versions",):
            damaged = with_value(document, (*path, "surprise"), 1)
            assert not reads(damaged)
            assert not validator.is_valid(damaged), path


WRONG_EVERYWHERE: list[Any] = [True, [], {}, [None], "", "\x00", "\n", -1e300, [[]], {"a": 1}]


@pytest.mark.parametrize("wrong", WRONG_EVERYWHERE, ids=repr)
def test_a_wrong_value_is_judged_alike(kit: ModuleType, validator: Any, wrong: Any) -> None:
    document = kit.document()
    for path in places(document):
        if path[-1:] in (("mean",), ("low",), ("high",)):
            continue  # inside its interval or not: that is beyond a schema
        damaged = with_value(document, path, wrong)
        assert reads(damaged) == validator.is_valid(damaged), path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("labels", 0, "color", 0), 256),
        (("labels", 0, "color"), [1, 2]),
        (("labels", 0, "value"), 0),
        (("labels", 0, "value"), 65536),
        (("labels", 0, "name"), " "),
        (("id",), "../x-x1"),
        (("version",), "1.0"),
        (("version",), "1.0.0-beta"),
        (("size",), "x1/0"),
        (("modality",), "US"),
        (("preprocessing", "axis_codes"), "XYZ"),
        (("preprocessing", "transpose_forward"), [0, 0, 1]),
        (("preprocessing", "transpose_forward"), [1, 2, 3]),
        (("preprocessing", "spacing", 1), 0),
        (("preprocessing", "normalization"), {"scheme": "CT"}),
        (("preprocessing", "normalization"), {"scheme": "CT", "mean": None}),
        (("windows", "patch_size", 2), 0),
        (("windows", "step_fraction"), 0),
        (("windows", "step_fraction"), 1.5),
        (("windows", "mirroring_axes"), [2, 2]),
        (("windows", "mirroring_axes"), [-1]),
        (("network", "features"), 1.5),
        (("network", "body"), "a/b.onnx"),
        (("network", "body"), "b.exe"),
        (("provenance", "checkpoint_sha256"), "A" * 64),
        (("provenance", "teacher_sha256"), None),
        (("provenance", "temperature"), None),
        (("provenance", "method"), "Logit"),
        (("provenance", "losses"), {"ms sard": {"weight": "1"}}),
        (("provenance", "losses"), {"ms_sard": {"weight": 1}}),
        (("files", "a b.txt"), {"size": 1, "sha256": "0" * 64}),
        (("files", "x.txt"), {"size": -1, "sha256": "0" * 64}),
        (("files",), {}),
        (("schema_version",), 2),
        (("schema_version",), 0),
    ],
    ids=repr,
)
def test_a_broken_rule_is_refused_by_both(kit: ModuleType, validator: Any, path: Path, value: Any) -> None:
    damaged = with_value(kit.document(), path, value)
    assert not reads(damaged)
    assert not validator.is_valid(damaged)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_schema_refuses_the_reader_refuses(kit: ModuleType, validator: Any, data: st.DataObject) -> None:
    document = kit.document()
    path = data.draw(st.sampled_from(list(places(document))))
    damaged = with_value(document, path, data.draw(_JSON))
    if reads(damaged):
        validator.validate(damaged)

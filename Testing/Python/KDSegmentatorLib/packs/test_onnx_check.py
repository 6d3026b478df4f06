from __future__ import annotations

import contextlib
import random
import time
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs import onnx_check
from KDSegmentatorLib.packs.onnx_check import OnnxSummary, check_onnx

NEEDS_ONNX = "needs onnx: pip install 'kdsegmentator[distill]'"


def test_a_complete_model(kit: ModuleType) -> None:
    assert check_onnx(kit.onnx_model(), "m") == OnnxSummary(ir_version=10, opset=18)
    assert check_onnx(kit.onnx_model(opsets=kit.opset(18, b"ai.onnx")), "m").opset == 18
    assert check_onnx(kit.onnx_model(opsets=kit.opset(18) + kit.opset(18, b"ai.onnx")), "m").opset == 18


def holders(kit: ModuleType) -> dict[str, object]:
    """Return functions that put a tensor message at every place where a network can have one."""
    message = kit.message

    def node(attribute: bytes) -> bytes:
        return message(1, message(5, attribute))

    return {
        "initializer": lambda tensor: kit.onnx_model(message(5, tensor)),
        "constant": lambda tensor: kit.onnx_model(node(message(5, tensor))),
        "tensors": lambda tensor: kit.onnx_model(node(message(10, tensor))),
        "second graph": lambda tensor: kit.onnx_model() + message(7, message(5, tensor)),
    }


@pytest.mark.parametrize("place", ["initializer", "constant", "tensors", "second graph"])
def test_external_data_is_found_everywhere(kit: ModuleType, place: str) -> None:
    build = holders(kit)[place]
    inside = kit.message(8, b"w") + kit.number(14, 0)
    assert check_onnx(build(inside), "m").opset == 18  # type: ignore[operator]
    entry = kit.message(13, kit.message(1, b"location") + kit.message(2, b"/etc/passwd"))
    with pytest.raises(PackError, match=r"^m is refused: a tensor refers to data outside .* inside the file$"):
        check_onnx(build(entry), "m")  # type: ignore[operator]
    for location in (1, 2, (1 << 32) + 1, (1 << 64) - 1):
        with pytest.raises(PackError, match="data_location"):
            check_onnx(build(kit.number(14, location)), "m")  # type: ignore[operator]


def test_other_domains_are_refused(kit: ModuleType) -> None:
    for model in (
        kit.onnx_model(opsets=kit.opset() + kit.opset(1, b"com.microsoft")),
        kit.onnx_model(kit.message(1, kit.message(7, b"com.microsoft"))),
        kit.onnx_model(opsets=kit.opset() + kit.opset(1, b"\xff\xfe")),
    ):
        with pytest.raises(PackError, match="it uses the operator domain"):
            check_onnx(model, "m")


@pytest.mark.parametrize("operator", [b"Loop", b"If", b"Scan", b"RandomNormal", b"Expand", b"conv", b"", b"\xff"])
def test_operators_that_no_network_needs_are_refused(kit: ModuleType, operator: bytes) -> None:
    node = kit.message(1, kit.message(4, b"Conv") + kit.message(4, operator))  # of a field given twice the last counts
    with pytest.raises(PackError, match=r"^m is refused: it uses the operator '.*', .*kdseg-distill export"):
        check_onnx(kit.onnx_model(node), "m")
    assert check_onnx(kit.onnx_model(kit.message(1, kit.message(4, b"Conv"))), "m").opset == 18


def test_what_can_hold_more_graphs_or_tensors_is_refused(kit: ModuleType) -> None:
    message = kit.message

    def attribute(content: bytes) -> bytes:
        return kit.onnx_model(message(1, message(5, content)))

    cases = {
        kit.onnx_model() + message(20, b""): "training information",
        kit.onnx_model() + message(25, message(10, b"my.functions")): "a function",
        kit.onnx_model(message(15, b"")): "a sparse tensor",
        attribute(message(22, b"")): "a sparse tensor",
        attribute(message(23, b"")): "a sparse tensor",
        attribute(message(6, b"")): "a graph inside of a node",
        attribute(message(11, b"")): "a graph inside of a node",
        attribute(kit.number(6, 0)): "a graph inside of a node",
    }
    for model, what in cases.items():
        with pytest.raises(PackError, match=f"^m is refused: it has {what};"):
            check_onnx(model, "m")


def test_models_without_what_a_model_has(kit: ModuleType) -> None:
    graph = kit.message(7, b"")
    cases = {
        b"": "it has no graph",
        kit.number(1, 10) + kit.opset(): "it has no graph",
        kit.opset() + graph: "exactly one ir_version",
        kit.number(1, 10) + kit.number(1, 9) + kit.opset() + graph: "exactly one ir_version",
        kit.number(1, 10) + graph: "exactly one version of the operator set",
        kit.number(1, 10) + kit.opset(17) + kit.opset(18) + graph: r"operator set \(found \[17, 18\]\)",
    }
    for model, message in cases.items():
        with pytest.raises(PackError, match=message):
            check_onnx(model, "m")


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b"\x0a\x05abc", "ends in the middle of a field"),
        (b"\x0a", "ends in the middle of a number"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "ends in the middle of a field"),
        (b"\x10" + b"\xff" * 11, "more than 64 bits"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0e", "wire type 6"),
        (b"\x02\x00", "field with the number 0"),
        (b"\xf8\xff\xff\xff\xff\x01\x00", "field with the number"),
        (b"\x38\x01", "field 7 of a model has wire type 0 instead of 2"),
        (b"\x11abc", "ends in the middle of a field"),
    ],
)
def test_malformed_bytes(kit: ModuleType, tail: bytes, message: str) -> None:
    with pytest.raises(PackError, match=message):
        check_onnx(kit.onnx_model() + tail, "m")


def test_unknown_fields_of_every_type_are_skipped(kit: ModuleType) -> None:
    tail = b"\xf9\x06" + bytes(8) + b"\xfd\x06" + bytes(4) + b"\xf8\x06\x05" + b"\xfa\x06\x02ab"
    assert check_onnx(kit.onnx_model() + tail, "m").opset == 18


def test_too_many_fields_are_refused(kit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_check, "MAXIMUM_FIELDS", 100)
    with pytest.raises(PackError, match="more than 100 fields"):
        check_onnx(kit.onnx_model(kit.message(1, b"") * 101), "m")


def test_large_weights_are_skipped_quickly(kit: ModuleType) -> None:
    model = kit.onnx_model(weights=bytes(64 << 20))
    start = time.process_time()
    check_onnx(model, "m")
    assert time.process_time() - start < 2


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_or_accepted(data: bytes) -> None:
    try:
        check_onnx(data, "m")
    except PackError as error:
        assert str(error).startswith("m is ")


def test_changed_bytes_never_crash_the_scanner(kit: ModuleType) -> None:
    model = kit.onnx_model(kit.message(1, kit.message(4, b"Constant") + kit.message(5, kit.message(5, b""))))
    generator = random.Random(0)
    for _ in range(3000):
        damaged = bytearray(model)
        for _ in range(generator.randrange(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        with contextlib.suppress(PackError):
            check_onnx(bytes(damaged[: generator.randrange(len(damaged) + 1)]), "m")


def test_models_of_the_onnx_package() -> None:
    onnx = pytest.importorskip("onnx", reason=NEEDS_ONNX)
    helper = onnx.helper
    shape = (1, 8, 6, 6, 6)
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, (8, 1, 3, 3, 3), bytes(864), raw=True)
    bias = helper.make_tensor("b", onnx.TensorProto.FLOAT, (1,), bytes(4), raw=True)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3, 3]),
            helper.make_node("Constant", [], ["c"], value=bias),
            helper.make_node("Add", ["y", "c"], ["out"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 1, 8, 8, 8))],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, shape)],
        initializer=[weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    intact = model.SerializeToString()
    assert check_onnx(intact, "m") == OnnxSummary(ir_version=9, opset=17)

    for find in (lambda m: m.graph.initializer[0], lambda m: m.graph.node[1].attribute[0].t):
        changed = onnx.ModelProto.FromString(intact)
        onnx.external_data_helper.set_external_data(find(changed), location="weights.bin")
        with pytest.raises(PackError, match="outside the file"):
            check_onnx(changed.SerializeToString(), "m")

    changed = onnx.ModelProto.FromString(intact)
    changed.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=onnx.GraphProto(), else_branch=onnx.GraphProto())
    )
    with pytest.raises(PackError, match=r"'If'|a graph inside of a node"):
        check_onnx(changed.SerializeToString(), "m")


def test_a_model_saved_with_external_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    onnx = pytest.importorskip("onnx", reason=NEEDS_ONNX)
    folder = tmp_path_factory.mktemp("model")
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, (1024,), [0.5] * 1024)
    weight.raw_data = bytes(4096)
    del weight.float_data[:]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])], "net", [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1024,))], initializer=[weight],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "inside.onnx")
    onnx.save(model, folder / "outside.onnx", save_as_external_data=True, location="outside.bin", size_threshold=0)
    assert check_onnx((folder / "inside.onnx").read_bytes(), "m").opset == 18
    assert (folder / "outside.bin").exists()
    with pytest.raises(PackError, match="external_data"):
        check_onnx((folder / "outside.onnx").read_bytes(), "m")


def test_the_field_numbers_are_those_of_the_onnx_package() -> None:
    """Every field of ONNX's own definition that can hold a tensor is followed or refused, also one of a later onnx."""
    onnx = pytest.importorskip("onnx", reason=NEEDS_ONNX)
    kinds = {
        "ModelProto": "model", "GraphProto": "graph", "NodeProto": "node", "AttributeProto": "attribute",
        "TensorProto": "tensor", "OperatorSetIdProto": "opset",
    }  # fmt: skip
    others = {"FunctionProto", "TrainingInfoProto", "SparseTensorProto"}
    for name, kind in kinds.items():
        descriptor = getattr(onnx, name).DESCRIPTOR
        messages = {
            field.number: field.message_type.name for field in descriptor.fields if field.message_type is not None
        }
        refused = onnx_check._REFUSED.get(kind, {})
        followed = {number: kinds[each] for number, each in messages.items() if each in kinds and number not in refused}
        assert onnx_check._CHILDREN[kind] == followed, name
        assert {number for number, each in messages.items() if each in others} <= refused.keys(), name
        domain = descriptor.fields_by_name.get("domain")
        if name != "ModelProto":  # there it is the model's own name space, not one of operators
            assert onnx_check._DOMAIN_FIELD.get(kind) == (None if domain is None else domain.number)
    assert onnx.NodeProto.DESCRIPTOR.fields_by_name["op_type"].number == onnx_check._NODE_OPERATOR
    tensor = onnx.TensorProto.DESCRIPTOR.fields_by_name
    assert (tensor["external_data"].number, tensor["data_location"].number) == (13, 14)

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from KDSegmentatorLib.engines import candidates
from KDSegmentatorLib.engines.candidates import find_candidates
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Manifest, ReducedFormat, ReducedPrecision
from support.generated_packs import manifest
from support.reduced_packs import claim_openvino_abilities

ALL = {"FP32", "BF16", "INT8"}


def accepted(*precisions: ReducedFormat) -> Manifest:
    """Return the manifest of a pack that was accepted in some precisions."""
    base = manifest()
    reduced = tuple(
        ReducedPrecision(
            precision=precision,
            body=base.network.body,
            mean_dice_loss=0.0,
            largest_dice_loss=0.0,
            cases=4,
            probe_agreement=1.0,
        )
        for precision in precisions
    )
    return replace(base, network=replace(base.network, probe="probe.npz", reduced_precisions=reduced))


def has_onnxruntime(monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    monkeypatch.setattr(candidates, "onnxruntime_devices", lambda: devices)


def titles(manifest: Manifest, request: RunOptions | None = None) -> list[str]:
    return [each.title for each in find_candidates(manifest, request or RunOptions()).usable]


def test_the_fastest_precision_comes_first_and_openvino_before_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_openvino_abilities(monkeypatch, cpu=ALL)
    has_onnxruntime(monkeypatch, "cpu")
    assert titles(accepted("bfloat16", "int8")) == [
        "openvino int8 on cpu",
        "openvino bfloat16 on cpu",
        "openvino float32 on cpu",
        "onnxruntime float32 on cpu",
    ]


@pytest.mark.parametrize("device", ["cuda", "directml"])
def test_a_graphics_card_comes_before_the_processor(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    claim_openvino_abilities(monkeypatch, cpu=ALL)
    has_onnxruntime(monkeypatch, device, "cpu")
    assert titles(accepted("int8"))[:2] == [f"onnxruntime float32 on {device}", "openvino int8 on cpu"]


def test_what_is_slower_or_less_exact_has_to_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_openvino_abilities(monkeypatch, cpu=ALL, gpu=ALL, npu=ALL)
    has_onnxruntime(monkeypatch, "coreml", "cpu")
    assert {each.device for each in find_candidates(accepted("int8"), RunOptions()).usable} == {"cpu"}
    for device in ("gpu", "npu", "coreml"):
        usable = find_candidates(accepted("int8"), RunOptions(device=device)).usable
        assert usable
        assert {each.device for each in usable} == {device}


def test_a_precision_needs_instructions_and_an_accepted_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    has_onnxruntime(monkeypatch, "cpu")
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "INT8"})
    found = find_candidates(accepted("bfloat16"), RunOptions())
    assert [each.title for each in found.usable] == ["openvino float32 on cpu", "onnxruntime float32 on cpu"]
    assert found.left_out == (
        "openvino int8 on cpu: the pack was not accepted in int8",
        "openvino bfloat16 on cpu: the device has no instructions for it",
    )


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (RunOptions(precision="bfloat16"), "the device has no instructions for it"),
        (RunOptions(precision="int8"), "the pack was not accepted in int8"),
        (RunOptions(precision="int8"), "onnxruntime: computes in float32 only, not in int8"),
        (RunOptions(engine="openvino", device="gpu"), "openvino: finds no gpu (only cpu)"),
        (RunOptions(device="cuda"), "onnxruntime: has no provider for cuda (only cpu)"),
        (RunOptions(engine="onnxruntime", device="npu"), "onnxruntime: has no provider for npu (only cpu)"),
    ],
)
def test_what_is_asked_for_and_not_possible_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, request_: RunOptions, reason: str
) -> None:
    claim_openvino_abilities(monkeypatch, cpu={"FP32", "INT8"})
    has_onnxruntime(monkeypatch, "cpu")
    found = find_candidates(accepted("bfloat16"), request_)
    assert found.usable == ()
    assert any(reason in each for each in found.left_out)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (RunOptions(engine="onnxruntime"), ["onnxruntime float32 on cpu"]),
        (RunOptions(engine="openvino"), ["openvino int8 on cpu", "openvino float32 on cpu"]),
        (RunOptions(precision="float32"), ["openvino float32 on cpu", "onnxruntime float32 on cpu"]),
        (RunOptions(engine="openvino", precision="int8", device="cpu"), ["openvino int8 on cpu"]),
    ],
)
def test_what_is_asked_for_is_all_there_is(
    monkeypatch: pytest.MonkeyPatch, request_: RunOptions, expected: list[str]
) -> None:
    claim_openvino_abilities(monkeypatch, cpu=ALL, gpu=ALL)
    has_onnxruntime(monkeypatch, "cpu")
    assert titles(accepted("int8"), request_) == expected


def test_an_engine_that_is_not_installed_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    claim_openvino_abilities(monkeypatch, cpu={"FP32"})
    found = find_candidates(manifest(), RunOptions())
    assert [each.title for each in found.usable] == ["openvino float32 on cpu"]
    assert any(each.startswith("onnxruntime: onnxruntime is not installed") for each in found.left_out)

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import distillation.evaluation.reduced_precision as module
from distillation.evaluation.reduced_precision import (
    LARGEST_LOSS,
    ReducedResult,
    compare_with_float32,
    missing_for,
    reduced_engine,
)
from distillation.evaluation.scores import ReducedEngine, Score
from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.errors import EngineError, EngineUnavailableError, ExportError
from KDSegmentatorLib.packs.manifest import ReducedFormat, ReducedPrecision
from KDSegmentatorLib.packs.pack import StudentPack
from support.scores import score

NAN = math.nan
PATCH = (16, 16, 16)


class Idle:
    """An engine that is never run."""

    name, device = "fake", "cpu"

    def __init__(self, precision: ReducedFormat) -> None:
        self.precision = precision

    def run(self, windows: np.ndarray, cancelled: Callable[[], bool]) -> np.ndarray:
        raise AssertionError("nobody should run this")


def idle(precision: ReducedFormat = "int8") -> ReducedEngine:
    engine: Engine = Idle(precision)
    return ReducedEngine(engine=engine, precision=precision, body_sha256="0" * 64, probe_agreement=0.97)


def scores(table: Sequence[Sequence[float]], seconds: float = 1.0) -> list[Score]:
    """Return scores from Dice by case and label (1, 2, ...)."""
    return [
        score(case=f"case {number}", label=label, dice=dice, seconds=seconds)
        for number, row in enumerate(table)
        for label, dice in enumerate(row, start=1)
    ]


def losses(exact: Sequence[Sequence[float]], approximate: Sequence[Sequence[float]]) -> ReducedResult:
    return compare_with_float32("m", idle(), scores(exact), scores(approximate, seconds=0.25))


def test_losses_are_means_over_labels_and_cases() -> None:
    result = losses([[0.9, 0.8], [0.7, 0.6]], [[0.88, 0.8], [0.72, 0.5]])
    assert result.label_losses == pytest.approx({1: 0.0, 2: 0.05})
    assert result.mean_loss == pytest.approx((0.01 + 0.04) / 2)
    assert result.largest_loss == pytest.approx(0.05)
    assert (result.model, result.precision, result.cases, result.seconds) == ("m", "int8", 2, 0.25)
    assert result.probe_agreement == 0.97


def test_a_label_that_is_nowhere_says_nothing_about_its_case() -> None:
    result = losses([[0.9, NAN], [0.7, 0.6]], [[0.8, NAN], [0.7, 0.6]])
    assert result.label_losses == pytest.approx({1: 0.05, 2: 0.0})
    assert result.mean_loss == pytest.approx(0.05)
    assert result.cases == 2
    assert losses([[NAN, NAN], [0.7, 0.6]], [[NAN, NAN], [0.7, 0.6]]).cases == 1


def test_what_only_one_precision_finds_where_nothing_is_counts_as_wrong() -> None:
    assert losses([[NAN, 0.6]], [[0.0, 0.6]]).label_losses == {1: 1.0, 2: 0.0}
    assert losses([[0.0, 0.6]], [[NAN, 0.6]]).label_losses == {1: -1.0, 2: 0.0}


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_gate_is_the_label_that_loses_most(precision: ReducedFormat) -> None:
    limit = {"bfloat16": 0.002, "int8": 0.005}[precision]
    assert LARGEST_LOSS[precision] == limit
    result = replace(losses([[0.5, 0.5, 0.5]], [[0.5, 0.5, 0.5]]), precision=precision)

    def accepted(*by_label: float | None) -> bool:
        return replace(result, label_losses=dict(enumerate(by_label, start=1))).accepted

    assert accepted(0.0, -0.3, limit)
    assert not accepted(0.0, -0.3, math.nextafter(limit, 1))  # on average it gains
    assert not accepted(0.0, NAN)
    assert not accepted(0.0, None)  # a label that no case has was not measured


def test_an_unmeasured_label_is_told_apart() -> None:
    result = losses([[0.9, NAN], [0.7, NAN]], [[0.9, NAN], [0.7, NAN]])
    assert result.label_losses == {1: 0.0, 2: None}
    assert result.largest_loss == 0.0
    assert not result.accepted


def test_the_manifest_gets_the_numbers() -> None:
    result = losses([[0.9, 0.8], [0.7, 0.6]], [[0.8999996, 0.8], [0.7, 0.5966664]])
    assert result.to_manifest("body.int8.onnx") == ReducedPrecision(
        precision="int8",
        body="body.int8.onnx",
        mean_dice_loss=0.000833,
        largest_dice_loss=0.001667,
        cases=2,
        probe_agreement=0.97,
    )


def test_what_this_processor_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "openvino_devices", lambda: {"cpu": frozenset({"FP32", "INT8"})})
    assert missing_for("int8") is None
    assert missing_for("bfloat16") == (
        "this processor has no instructions for bfloat16; evaluate on one that has them to add it"
    )
    monkeypatch.setattr(module, "openvino_devices", lambda: {"cpu": frozenset({"FP32", "INT8", "BF16"})})
    assert missing_for("bfloat16") is None
    monkeypatch.setattr(module, "openvino_devices", lambda: {"gpu": frozenset({"INT8", "BF16"})})
    assert missing_for("int8") is not None

    def unavailable() -> dict[str, frozenset[str]]:
        raise EngineUnavailableError("OpenVINO cannot be used")

    monkeypatch.setattr(module, "openvino_devices", unavailable)
    assert missing_for("int8") == missing_for("bfloat16") == "OpenVINO cannot be used"


def test_an_engine_is_tried_on_the_probe(teacher_pack: StudentPack) -> None:
    reduced = reduced_engine(teacher_pack, "int8", teacher_pack.body(), threads=1)  # float32's kernels: nothing is lost
    assert (reduced.precision, reduced.engine.precision, reduced.engine.name) == ("int8", "int8", "openvino")
    assert reduced.probe_agreement > 0.998
    assert type(reduced.probe_agreement) is float
    assert reduced.body_sha256 == hashlib.sha256(teacher_pack.body()).hexdigest()


def test_no_engine_without_a_probe_or_with_a_damaged_network(teacher_pack: StudentPack) -> None:
    with pytest.raises(EngineError, match="does not load"):
        reduced_engine(teacher_pack, "int8", b"no network")
    network = replace(teacher_pack.manifest.network, probe=None)
    bare = replace(teacher_pack, manifest=replace(teacher_pack.manifest, network=network))
    with pytest.raises(ExportError, match="spheres-x1 has no probe to check int8 with; export it again"):
        reduced_engine(bare, "int8", teacher_pack.body())

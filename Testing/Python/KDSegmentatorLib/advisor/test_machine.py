from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("openvino", reason="needs OpenVINO")
from KDSegmentatorLib.advisor import machine
from KDSegmentatorLib.advisor.machine import probe_machine
from KDSegmentatorLib.errors import EngineUnavailableError
from KDSegmentatorLib.machine.processor import processor_name
from KDSegmentatorLib.options import ENGINES


def test_what_is_there() -> None:
    found = probe_machine()
    assert found.processor == processor_name()
    assert found.hardware.logical_cores >= 1
    assert sorted(engine.name for engine in found.engines) == sorted(ENGINES)
    for engine in found.engines:
        assert engine.version
        assert engine.problem is None
        assert "FP32" in engine.devices["cpu"]


def test_openvino_and_the_processor_agree_about_bfloat16() -> None:
    found = probe_machine()
    (openvino,) = (engine for engine in found.engines if engine.name == "openvino")
    able = {"avx512_bf16", "amx"} & set(found.hardware.instructions)
    if "avx2" in found.hardware.instructions:  # x86, and the system tells
        assert ("BF16" in openvino.devices["cpu"]) == bool(able)


@pytest.mark.parametrize(
    ("engine", "question"), [("openvino", "openvino_devices"), ("onnxruntime", "onnxruntime_devices")]
)
def test_an_engine_that_is_missing_is_named_with_the_reason(
    engine: str, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise EngineUnavailableError("it is not installed; install it with pip")

    monkeypatch.setattr(machine, question, missing)
    found = {each.name: each for each in probe_machine().engines}
    assert found[engine] == machine.FoundEngine(
        name=engine, version=None, devices={}, problem="it is not installed; install it with pip"
    )
    (other,) = set(ENGINES) - {engine}
    assert found[other].problem is None

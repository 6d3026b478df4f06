from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")
onnx = pytest.importorskip("onnx", reason="install the extra 'distill'")
pytest.importorskip("nncf", reason="install the extra 'distill'")

import distillation.export.quantization as quantization  # noqa: E402
from distillation.export.network import MAXIMUM_IR_VERSION, OPSET, split_network, to_onnx  # noqa: E402
from distillation.export.quantization import to_int8_onnx  # noqa: E402
from distillation.plans import resolve_configuration  # noqa: E402
from distillation.teacher import build_network  # noqa: E402
from KDSegmentatorLib.engines.engine import Engine  # noqa: E402
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine  # noqa: E402
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine  # noqa: E402
from KDSegmentatorLib.errors import ExportError  # noqa: E402
from KDSegmentatorLib.packs.onnx_check import check_onnx  # noqa: E402

PATCH = (16, 16, 16)
REPOSITORY = Path(__file__).parents[4]


def windows(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(1, 1, *PATCH)).astype(np.float32) for _ in range(count)]


def quantized(body: torch.nn.Module) -> bytes:
    return to_int8_onnx(body, channels=1, patch_size=PATCH, windows=windows(4))


def features(engine: Engine, window: np.ndarray) -> np.ndarray:
    return engine.run(window, lambda: False).copy()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@pytest.fixture(scope="module", params=["PlainConvUNet", "ResidualEncoderUNet"])
def body(plans: Callable[..., dict[str, Any]], request: pytest.FixtureRequest) -> torch.nn.Module:
    """The body of a network with random weights."""
    torch.manual_seed(0)
    configuration = resolve_configuration(
        plans(f"dynamic_network_architectures.architectures.unet.{request.param}"), "3d_fullres"
    )
    return split_network(build_network(configuration, channels=1, labels=3, deep_supervision=True)).body


@pytest.fixture(scope="module")
def data(body: torch.nn.Module) -> bytes:
    return quantized(body)


def test_every_convolution_has_an_int8_kernel_and_an_int8_input(data: bytes) -> None:
    model = onnx.load_from_string(data)
    made_by = {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert {node.op_type for node in convolutions} == {"Conv", "ConvTranspose"}
    for node in convolutions:
        entering, kernel = (made_by[name] for name in node.input[:2])
        assert entering.op_type == kernel.op_type == "DequantizeLinear"
        assert made_by[entering.input[0]].op_type == "QuantizeLinear"
        values = onnx.numpy_helper.to_array(stored[kernel.input[0]])
        assert values.dtype == np.int8
        assert len(np.unique(values)) > 50  # not all rounded to nothing
    floats = [each for each in stored.values() if each.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(each.dims) <= 64 for each in floats)  # scales, biases and normalisations


def test_it_is_what_packs_and_old_runtimes_take(data: bytes) -> None:
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= MAXIMUM_IR_VERSION
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert check_onnx(data, "body").opset == OPSET
    assert [each.name for each in model.graph.input] == ["input"]
    assert [each.name for each in model.graph.output] == ["features"]
    assert model.producer_name == "kdseg-distill"
    assert model.producer_version.startswith("nncf 3.")


def test_features_are_close_to_torchs_on_both_engines(body: torch.nn.Module, data: bytes) -> None:
    (window,) = windows(1, seed=9)
    with torch.inference_mode():
        expected = body(torch.from_numpy(window)).numpy()
    for engine in (
        OnnxRuntimeEngine(data, threads=1),
        OpenVinoEngine(data, patch_size=PATCH, precision="int8", threads=1),
    ):
        assert 1e-3 < relative_error(features(engine, window), expected) < 0.06, engine.name


def test_batches_are_run_too(data: bytes) -> None:
    batch = np.concatenate(windows(2, seed=9))
    engine = OnnxRuntimeEngine(data, threads=1)
    found = features(engine, batch)
    assert found.shape == (2, 16, *PATCH)
    np.testing.assert_allclose(found[1:], features(engine, batch[1:]), atol=1e-4)


def test_the_oldest_supported_onnxruntime_gives_the_same(
    data: bytes, oldest_onnxruntime: Callable[[bytes, np.ndarray], np.ndarray]
) -> None:
    (window,) = windows(1, seed=9)
    found = oldest_onnxruntime(data, window)
    assert relative_error(found, features(OnnxRuntimeEngine(data, threads=1), window)) < 0.01


def test_the_file_has_a_byte_for_every_weight(body: torch.nn.Module, data: bytes) -> None:
    in_float32 = to_onnx(body, channels=1, patch_size=PATCH, storage="float32")
    kernels = sum(parameter.numel() for parameter in body.parameters() if parameter.ndim > 1)
    assert len(in_float32) - len(data) > 2.5 * kernels


def test_the_same_network_gives_the_same_bytes(body: torch.nn.Module, data: bytes) -> None:
    before = {name: value.clone() for name, value in body.state_dict().items()}
    assert quantized(body) == data
    assert all(torch.equal(before[name], value) for name, value in body.state_dict().items())


class _Unequal(torch.nn.Module):
    """A large and a small map that enter one convolution, and count the same in it."""

    def __init__(self) -> None:
        super().__init__()
        self.large = torch.nn.Conv3d(1, 8, 3, padding=1)
        self.small = torch.nn.Conv3d(1, 8, 3, padding=1)
        self.joining = torch.nn.Conv3d(16, 8, 3, padding=1)
        with torch.no_grad():
            self.large.weight.mul_(1000)
            self.large.bias.mul_(1000)
            self.joining.weight[:, :8].div_(1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        joined: torch.Tensor = self.joining(torch.cat([self.large(image), self.small(image)], 1))
        return joined


def test_the_reason_for_taking_concatenations_apart_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, NNCF gives each of two concatenated maps its own scale, and the rewriting can go."""
    torch.manual_seed(0)
    network = _Unequal().eval()
    (window,) = windows(1, seed=9)
    with torch.inference_mode():
        expected = network(torch.from_numpy(window)).numpy()

    def error() -> float:
        return relative_error(features(OnnxRuntimeEngine(quantized(network), threads=1), window), expected)

    taken_apart = error()
    monkeypatch.setattr(quantization, "without_concatenations", lambda model: None)
    assert taken_apart < 0.1
    assert error() > 5 * taken_apart


def tiny() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.InstanceNorm3d(4, affine=True)).eval()


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    quantized(tiny())
    assert capfd.readouterr() == ("", "")


def test_a_missing_nncf_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"needs NNCF.*pip install nncf.*--calibration-windows 0"):
        quantized(tiny())


@pytest.mark.parametrize("before", ["absent", "blocked", "imported"])
def test_a_failing_nncf_is_an_export_error_and_telemetry_was_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    name = "openvino_telemetry"
    reachable = []

    def fail(*arguments: object, **options: object) -> None:
        reachable.append(sys.modules[name])
        raise RuntimeError("no idea how")

    fake = SimpleNamespace(
        quantize=fail,
        Dataset=lambda *arguments: None,
        QuantizationPreset=SimpleNamespace(MIXED=None),
        TargetDevice=SimpleNamespace(CPU=None),
    )
    monkeypatch.setitem(sys.modules, "nncf", fake)
    if before == "absent":
        monkeypatch.delitem(sys.modules, name, raising=False)
    else:
        monkeypatch.setitem(sys.modules, name, None if before == "blocked" else SimpleNamespace())
    state = dict(sys.modules)
    with pytest.raises(ExportError, match="NNCF could not quantise the network: no idea how"):
        quantized(tiny())
    assert reachable == [None]
    assert (name in sys.modules, sys.modules.get(name)) == (name in state, state.get(name))


# Not in this process: with pytest loaded NNCF does not report anyway.
_IN_A_NEW_PROCESS = """
import socket, sys

tried = []

def refuse(*arguments, **options):
    tried.append("a connection")
    raise OSError("there is no network here")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.gethostbyname = refuse

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "openvino_telemetry":
            tried.append(name)

sys.meta_path.insert(0, Watch())

import numpy, torch
from distillation.export.quantization import to_int8_onnx

network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.InstanceNorm3d(4, affine=True)).eval()
window = numpy.random.default_rng(0).normal(size=(1, 1, 8, 8, 8)).astype("float32")
assert to_int8_onnx(network, channels=1, patch_size=(8, 8, 8), windows=[window])
assert not tried, tried
assert "nncf" in sys.modules and "pytest" not in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


def test_nothing_is_reported_to_anybody() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", _IN_A_NEW_PROCESS], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")
onnx = pytest.importorskip("onnx", reason="install the extra 'distill'")

from distillation.export.network import (  # noqa: E402  # noqa: E402
    MAXIMUM_IR_VERSION,
    OPSET,
    apply_head,
    check_agreement,
    check_model,
    split_network,
    to_onnx,
    with_stored_weights,
)
from distillation.teacher import load_model_folder  # noqa: E402
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine  # noqa: E402
from KDSegmentatorLib.errors import ExportError  # noqa: E402
from KDSegmentatorLib.packs.onnx_check import check_onnx  # noqa: E402


def never():
    return False


def windows(count=2, batch=1):
    random = np.random.default_rng(0)
    return [random.normal(size=(batch, 1, 16, 16, 16)).astype(np.float32) for _ in range(count)]


@pytest.fixture
def network(plans, model_folder, each_architecture):
    return load_model_folder(model_folder(plans(each_architecture)), 0).network


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_body_and_head_give_the_networks_logits(network, storage):
    split = split_network(network)
    stored = with_stored_weights(split.body, storage)
    data = to_onnx(stored, channels=1, patch_size=(16, 16, 16), storage=storage)
    agreement = check_agreement(data, stored_body=stored, split=split, network=network, windows=windows())
    assert agreement.exported < 1e-4
    assert agreement.windows == 2
    if storage == "float32":
        assert agreement.storage < 1e-4
        assert agreement.equal_voxels > 0.9999
    else:
        assert 1e-6 < agreement.storage < 0.05  # weights were rounded, and that is reported
        assert agreement.equal_voxels > 0.99


def test_batch_axis_is_dynamic_and_the_engine_runs_it(network):
    split = split_network(network)
    data = to_onnx(split.body, channels=1, patch_size=(16, 16, 16), storage="float32")
    (batch,) = windows(1, batch=3)
    features = OnnxRuntimeEngine(data, threads=1).run(batch, never)
    assert features.shape == (3, 16, 16, 16, 16)
    with torch.inference_mode():
        logits = network(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(apply_head(features, split), logits, atol=1e-4)


def test_file_is_self_contained_and_old_enough(network):
    data = to_onnx(split_network(network).body, channels=1, patch_size=(16, 16, 16), storage="float16")
    model = onnx.load_from_string(data)
    assert model.ir_version <= MAXIMUM_IR_VERSION
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert [each.name for each in model.graph.input] == ["input"]
    assert [each.name for each in model.graph.output] == ["features"]
    halved = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    cast = {node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    kernels = {cast.output[0]: cast.input[0] for cast in model.graph.node if cast.op_type == "Cast"}
    used = {kernels[node.input[1]] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    assert halved == cast == used


def test_half_precision_halves_the_file(network):
    body = split_network(network).body
    sizes = {
        storage: len(to_onnx(with_stored_weights(body, storage), channels=1, patch_size=(16, 16, 16), storage=storage))
        for storage in ("float32", "float16")
    }
    assert sizes["float16"] < 0.65 * sizes["float32"]


def test_the_same_network_gives_the_same_bytes(network):
    body = split_network(network).body
    first, second = (to_onnx(body, channels=1, patch_size=(16, 16, 16), storage="float32") for _ in range(2))
    assert first == second


def test_the_network_itself_stays_whole(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    body = split_network(network).body
    with_stored_weights(body, "float16")
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_head_is_the_last_convolution(network):
    split = split_network(network)
    head = network.decoder.seg_layers[-1]
    np.testing.assert_array_equal(split.head_weight, head.weight[:, :, 0, 0, 0].numpy())
    np.testing.assert_array_equal(split.head_bias, head.bias.numpy())
    assert split.head_weight.dtype == split.head_bias.dtype == np.float32


def test_a_wrong_export_is_noticed(network):
    split = split_network(network)
    stored = with_stored_weights(split.body, "float16")
    data = to_onnx(stored, channels=1, patch_size=(16, 16, 16), storage="float16")
    with torch.no_grad():
        next(stored.parameters()).add_(0.1)
    with pytest.raises(ExportError, match="differ from torch"):
        check_agreement(data, stored_body=stored, split=split, network=network, windows=windows())


def test_not_a_number_is_noticed(network):
    split = split_network(network)
    data = to_onnx(split.body, channels=1, patch_size=(16, 16, 16), storage="float32")
    window = np.full((1, 1, 16, 16, 16), np.nan, dtype=np.float32)
    with pytest.raises(ExportError, match="not finite"):
        check_agreement(data, stored_body=split.body, split=split, network=network, windows=[window])


def test_weights_beyond_half_precision(network):
    body = split_network(network).body
    with torch.no_grad():
        next(body.parameters()).fill_(1e6)
    with pytest.raises(ExportError, match="storage float32"):
        with_stored_weights(body, "float16")


@pytest.mark.parametrize("module", [torch.nn.Conv3d(1, 1, 1), torch.nn.Sequential()])
def test_networks_without_a_head(module):
    with pytest.raises(ExportError, match="no decoder"):
        split_network(module)


def test_the_library_accepts_every_exported_operator(network):
    data = to_onnx(split_network(network).body, channels=1, patch_size=(16, 16, 16), storage="float16")
    assert check_onnx(data, "body").opset == OPSET


def test_newer_and_invalid_files_are_refused(network):
    data = to_onnx(split_network(network).body, channels=1, patch_size=(16, 16, 16), storage="float32")
    model = onnx.load_from_string(data)
    model.ir_version = MAXIMUM_IR_VERSION + 1
    with pytest.raises(ExportError, match="IR version"):
        check_model(model)
    model = onnx.load_from_string(data)
    model.graph.node[0].op_type = "Convolve"
    with pytest.raises(ExportError, match="not valid ONNX"):
        check_model(model)


def test_the_oldest_supported_onnxruntime_gives_the_same(network, oldest_onnxruntime):
    data = to_onnx(
        with_stored_weights(split_network(network).body, "float16"), channels=1, patch_size=(16,) * 3, storage="float16"
    )
    (window,) = windows(1)
    features = OnnxRuntimeEngine(data, threads=1).run(window, never)
    np.testing.assert_allclose(oldest_onnxruntime(data, window), features, atol=1e-5)

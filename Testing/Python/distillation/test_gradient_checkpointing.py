import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.gradient_checkpointing import checkpoint_stages  # noqa: E402
from distillation.plans import resolve_configuration  # noqa: E402
from distillation.taps import EncoderTaps  # noqa: E402
from distillation.teacher import build_network  # noqa: E402


def network_of(plans, architecture):
    torch.manual_seed(0)
    configuration = resolve_configuration(plans(architecture, (8, 16, 32)), "3d_fullres")
    return build_network(configuration, channels=1, labels=3, deep_supervision=True)


def step(network, taps=None):
    """Outputs, gradients and the number of values kept for the backward pass."""
    patch = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(patch)
    loss = sum(output.square().mean() for output in outputs)
    if taps is not None:
        loss = loss + sum(features.square().mean() for features in taps.take())
    loss.backward()
    return outputs, {name: parameter.grad for name, parameter in network.named_parameters()}, sum(kept.values())


def test_gradients_are_the_same_in_less_memory(plans, each_architecture):
    plain, checkpointed = (network_of(plans, each_architecture) for _ in range(2))
    checkpoint_stages(checkpointed)
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()
    expected_outputs, expected, plain_kept = step(plain, EncoderTaps(plain))
    outputs, found, kept = step(checkpointed, EncoderTaps(checkpointed))
    torch.testing.assert_close(outputs, expected_outputs)
    torch.testing.assert_close(found, expected)
    assert kept < 0.6 * plain_kept


def test_without_gradients_nothing_is_recomputed(plans, each_architecture):
    network = network_of(plans, each_architecture)
    checkpoint_stages(network)
    with torch.no_grad():
        outputs = network(torch.zeros(1, 1, 16, 16, 16))
    assert not any(output.requires_grad for output in outputs)

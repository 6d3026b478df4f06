import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.plans import resolve_configuration  # noqa: E402
from distillation.taps import EncoderTaps  # noqa: E402
from distillation.teacher import build_network  # noqa: E402


@pytest.fixture
def network(plans, each_architecture):
    configuration = resolve_configuration(plans(each_architecture, (8, 16, 32)), "3d_fullres")
    return build_network(configuration, channels=1, labels=3, deep_supervision=True)


def test_taps_read_the_encoder_without_its_bottleneck(network):
    taps = EncoderTaps(network)
    assert taps.widths == [8, 16]
    patch = torch.randn(2, 1, 16, 16, 16)
    network(patch)
    features = taps.take()
    expected = network.encoder(patch)[:-1]
    assert [tuple(each.shape) for each in features] == [(2, 8, 16, 16, 16), (2, 16, 8, 8, 8)]
    torch.testing.assert_close(features, expected)


def test_gradients_flow_through_them(network):
    taps = EncoderTaps(network)
    network(torch.randn(1, 1, 16, 16, 16))
    taps.take()[1].sum().backward()
    assert all(parameter.grad is not None for parameter in network.encoder.stages[:2].parameters())
    assert all(parameter.grad is None for parameter in network.encoder.stages[2].parameters())


def test_features_are_taken_once(network):
    taps = EncoderTaps(network)
    network(torch.randn(1, 1, 16, 16, 16))
    taps.take()
    with pytest.raises(RuntimeError, match="did not run"):
        taps.take()


def test_validation_holds_on_to_nothing(network):
    taps = EncoderTaps(network)
    network.eval()(torch.randn(1, 1, 16, 16, 16))
    with pytest.raises(RuntimeError, match="did not run"):
        taps.take()


def test_a_frozen_network_is_read_in_evaluation_mode(network):
    taps = EncoderTaps(network.eval().requires_grad_(False))
    network(torch.randn(1, 1, 16, 16, 16))
    assert len(taps.take()) == 2

import copy

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.instance_norm import keep_channels_last  # noqa: E402


def block(width):
    torch.manual_seed(0)
    norm = torch.nn.InstanceNorm3d(width, affine=True)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return torch.nn.Sequential(torch.nn.Conv3d(1, width, 3, padding=1), norm).to(
        torch.float64, memory_format=torch.channels_last_3d
    )


def outputs_and_gradients(network, batch):
    network.zero_grad()
    data = torch.randn(
        batch, 1, 6, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    output = network(data.to(memory_format=torch.channels_last_3d))
    (output * torch.linspace(0, 1, output.numel(), dtype=torch.float64).reshape(output.shape)).sum().backward()
    return output, [data.grad, *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("width", [4, 16, 48])
def test_same_values_and_gradients(width, batch):
    plain = block(width)
    changed = copy.deepcopy(plain)
    keep_channels_last(changed)
    assert changed.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(outputs_and_gradients(changed, batch), outputs_and_gradients(plain, batch))


def test_layout_stays():
    norm = torch.nn.InstanceNorm3d(32, affine=True)
    keep_channels_last(norm)
    output = norm(torch.randn(2, 32, 6, 7, 5).to(memory_format=torch.channels_last_3d))
    assert output.is_contiguous(memory_format=torch.channels_last_3d)


def test_running_statistics_are_left_alone():
    norm = torch.nn.InstanceNorm3d(32, track_running_stats=True)
    keep_channels_last(norm)
    norm(torch.randn(2, 32, 4, 4, 4))
    assert norm.running_mean.abs().sum() > 0

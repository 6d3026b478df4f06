"""What a network costs: parameters and floating-point operations, counted without running it."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distillation.teacher import build_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a network.

    Attributes:
        parameters: learnable numbers, deep-supervision heads included, aliases counted once.
        flops: 2 x multiply-accumulate of every convolution and transposed convolution that one patch runs through, the
            full-resolution head included; normalisation, activations and biases are left out.
        paper_flops: as the paper counts; see :func:`count_paper_flops`.
    """

    parameters: int
    flops: int
    paper_flops: int


def network_cost(configuration: dict[str, Any], *, channels: int, labels: int) -> Cost:
    """Return the cost of the network that a plans configuration describes, for one patch of its size.

    The network is built on torch's meta device: no memory is taken and nothing is computed.

    Args:
        configuration: resolved configuration (:func:`distillation.plans.resolve_configuration`).
        channels: input channels.
        labels: outputs, background included.
    """
    with torch.device("meta"):
        network = build_network(configuration, channels=channels, labels=labels, deep_supervision=False)
        patch = torch.empty(1, channels, *configuration["patch_size"])
        return Cost(
            parameters=count_parameters(network),
            flops=count_flops(network, patch),
            paper_flops=count_paper_flops(network, patch),
        )


def count_parameters(network: nn.Module) -> int:
    """Return the number of learnable numbers.

    nnU-Net's ``state_dict`` lists the encoder twice (the decoder holds it too); ``parameters()`` does not.
    """
    return sum(parameter.numel() for parameter in network.parameters())


def count_flops(network: nn.Module, patch: torch.Tensor) -> int:
    """Return 2 x multiply-accumulate of all convolutions in one forward pass.

    A convolution multiplies every output voxel with (input channels x kernel) weights per output channel; a transposed
    one does the same for every input voxel.

    Args:
        network: the network; it may live on the meta device.
        patch: (1, channels, z, y, x) on the same device.
    """
    total = 0

    def add(module: nn.Module, inputs: Sequence[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv3d):
            total += _convolution_flops(module, output)
        elif isinstance(module, nn.ConvTranspose3d):
            total += 2 * inputs[0].shape[0] * math.prod(inputs[0].shape[2:]) * module.weight.numel()

    with _hooked(network, add), torch.inference_mode():
        network(patch)
    return total


def count_paper_flops(network: nn.Module, patch: torch.Tensor) -> int:
    """Return the operations of one forward pass as "From Performance to Practice" (Lan et al.) counts them.

    The paper prints 3364.88, 853.28 and 219.35 GFLOPs and does not say how they are counted. The only term that grows
    with the square of the width is 2 x multiply-accumulate of the convolutions: transposed ones are not in it, nor is
    any bias. What is left, 4.8 GFLOPs at full width, grows with the width; one operation a voxel for the LeakyReLU, the
    residual addition and every voxel that average pooling reads, and three a voxel for the instance normalisation, give
    all three figures to the last printed digit.

    Args:
        network: the network; it may live on the meta device.
        patch: (1, channels, z, y, x) on the same device.
    """
    from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD

    total = 0

    def add(module: nn.Module, inputs: Sequence[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv3d):
            total += _convolution_flops(module, output)
        elif isinstance(module, nn.InstanceNorm3d):
            total += 3 * output.numel()
        elif isinstance(module, nn.LeakyReLU | BasicBlockD | BottleneckD):  # a block adds its input to its output
            total += output.numel()
        elif isinstance(module, nn.AvgPool3d):
            total += inputs[0].numel()

    with _hooked(network, add), torch.inference_mode():
        network(patch)
    return total


def _convolution_flops(module: nn.Conv3d, output: torch.Tensor) -> int:
    return 2 * output.shape[0] * math.prod(output.shape[2:]) * module.weight.numel()


@contextmanager
def _hooked(
    network: nn.Module, hook: Callable[[nn.Module, Sequence[torch.Tensor], torch.Tensor], None]
) -> Iterator[None]:
    """Call a hook after every module's forward pass."""
    handles = [module.register_forward_hook(hook) for module in network.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""What a network costs: parameters and floating-point operations, counted without running it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distillation.teacher import build_network

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a network.

    Attributes:
        parameters: learnable numbers, deep-supervision heads included, aliases counted once.
        flops: 2 x multiply-accumulate of every convolution and transposed convolution that one patch runs through, the
            full-resolution head included; normalisation, activations and biases are left out.
    """

    parameters: int
    flops: int


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
        return Cost(parameters=count_parameters(network), flops=count_flops(network, patch))


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
            voxels = math.prod(output.shape[2:])
        elif isinstance(module, nn.ConvTranspose3d):
            voxels = math.prod(inputs[0].shape[2:])
        else:
            return
        total += 2 * voxels * module.weight.numel() * inputs[0].shape[0]

    hooks = [module.register_forward_hook(add) for module in network.modules()]
    try:
        with torch.inference_mode():
            network(patch)
    finally:
        for hook in hooks:
            hook.remove()
    return total

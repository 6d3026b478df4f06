"""Reading the features of a network's encoder while it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class EncoderTaps:
    """Keeps what the encoder's stages put out, without the bottleneck, from one forward pass to :meth:`take`.

    Forward hooks read the outputs, so that the network and its weights stay as they are.

    Args:
        network: a U-Net of dynamic_network_architectures, not wrapped.
    """

    def __init__(self, network: nn.Module) -> None:
        encoder: Any = network.encoder
        stages = list(encoder.stages)[:-1]
        self.widths: list[int] = [int(width) for width in encoder.output_channels[:-1]]
        """Channels of each stage."""
        self._features: list[torch.Tensor | None] = [None] * len(stages)
        for number, stage in enumerate(stages):
            stage.register_forward_hook(self._reader(number, network))

    def take(self) -> list[torch.Tensor]:
        """Return the features of the last forward pass in training or of a frozen network, and let go of them."""
        features = [each for each in self._features if each is not None]
        if len(features) != len(self._features):
            raise RuntimeError("the network did not run since its features were taken")
        self._features = [None] * len(features)
        return features

    def _reader(self, number: int, network: nn.Module) -> Any:
        frozen = not any(parameter.requires_grad for parameter in network.parameters())

        def read(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:  # noqa: ARG001 - torch fixes them
            # validation passes of a student would hold on to memory that nobody takes
            if network.training or frozen:
                self._features[number] = output

        return read

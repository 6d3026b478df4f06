"""Training in less memory: the inside of the network's stages is computed again for the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_stages(network: nn.Module) -> None:
    """Make every stage of a U-Net's encoder and decoder keep its inputs only; weights and their names stay.

    Gradients are the same. Stages hold no random operation (dropout is not on the list of allowed ones), so that no
    state of a random number generator has to be kept.

    Args:
        network: a U-Net of dynamic_network_architectures.
    """
    parts: Any = network
    for stage in (*parts.encoder.stages, *parts.decoder.stages):
        stage.forward = _recomputing(stage.forward)


def _recomputing(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(values: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return forward(values)
        output: torch.Tensor = checkpoint(forward, values, use_reentrant=False, preserve_rng_state=False)
        return output

    return run

"""Training in several processes: torch.distributed under ``torchrun``, gloo on CPUs and NCCL on GPUs."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


def is_distributed() -> bool:
    """Return whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized()


def process_count() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if is_distributed() else 1


def process_rank() -> int:
    """Return this process's number over all nodes; 0 writes the files."""
    return distributed.get_rank() if is_distributed() else 0


def join_processes(device: str) -> None:
    """Join the processes that ``torchrun`` started, until this one ends; alone, or joined already, do nothing.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (NCCL).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or is_distributed():
        return
    if device == "cuda":
        torch.cuda.set_device(local_device(device))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    # once for all trainings: torchrun's store does not take a second rendezvous
    atexit.register(distributed.destroy_process_group)


def local_device(device: str) -> torch.device:
    """Return this process's device: on a node with several GPUs the one of its number on the node (LOCAL_RANK)."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device(device)


def wait_for_all() -> None:
    """Wait until every process is here."""
    if is_distributed():
        distributed.barrier()


def from_first(value: T) -> T:
    """Return what the first process passed, in every process; for decisions that all have to take alike."""
    if not is_distributed():
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a value without gradient over all processes.

    A loss that divides by the mean of its denominators is, averaged over the processes, the loss of the whole batch.
    A value on the meta device, of a forecast, stays here.
    """
    if not is_distributed() or value.is_meta:
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / process_count()


def synchronise_weights(module: nn.Module) -> None:
    """Give every process the first one's weights, for modules that are not wrapped in DistributedDataParallel."""
    if is_distributed():
        for value in module.state_dict().values():
            if not value.is_meta:  # of a forecast
                distributed.broadcast(value, src=0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all processes, for parameters that DistributedDataParallel does not know."""
    if not is_distributed():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    # one message for all of them
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= process_count()
    for gradient, mean in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))

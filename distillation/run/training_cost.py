"""What a training will cost: memory counted without running it, time measured on a few real steps.

``python -m distillation.run.training_cost`` reads a :class:`TrainingWork` as JSON, trains a network with random weights
on random numbers for some steps, and prints what that took. It is a process of its own, so that its memory is gone
afterwards, and its peak is that of the steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from distillation.run.augmentation_cost import measure_augmentation
from distillation.run.training_work import NUMBERS_KEPT, MeasuredSteps, TrainingWork
from KDSegmentatorLib.errors import TrainingError
from KDSegmentatorLib.machine.peak_memory import peak_memory

if TYPE_CHECKING:
    import torch
    from torch import nn

PROCESS_BYTES = 900_000_000
"""Python with torch and nnU-Net loaded, before the first network."""

_PASSING_TENSORS = 3
"""Tensors of the largest size that a step has at hand beyond those that it keeps for the gradients."""

_MEASURED_STEPS = 2


def training_bytes(work: TrainingWork) -> int:
    """Return the memory that a training needs in float32, without running it.

    The network runs on torch's meta device, where autograd keeps tensors without content: those are counted, each
    storage once. With gradient checkpointing they are fewer, and what the largest stage keeps is there for a while when
    it is computed again. Added are weights, gradients and what the optimiser keeps, the teacher's weights and largest tensors, and the
    process. Of a distillation loss nothing else is kept: the logit loss computes its softmax in chunks, twice, and its
    gradient is among the passing tensors. Feature losses take more.
    """
    import torch

    from distillation.gradient_checkpointing import checkpoint_stages
    from distillation.teacher import build_network

    shape = (work.batch_size, work.channels, *work.configuration["patch_size"])
    with torch.device("meta"):
        network = build_network(work.configuration, channels=work.channels, labels=work.labels, deep_supervision=True)
        batch = torch.empty(shape)
        kept, stages = _kept(network, batch)
        largest = max(kept.values(), default=0)
        activations = sum(kept.values())
        if work.gradient_checkpointing:
            checkpoint_stages(network)
            kept, _ = _kept(network, batch)
            activations = sum(kept.values()) + max(stages)
    parameters: int = 4 * sum(parameter.numel() for parameter in network.parameters())
    copies = 2 + NUMBERS_KEPT[work.optimizer]
    total = PROCESS_BYTES + activations + copies * parameters + _PASSING_TENSORS * largest
    return total if work.teacher is None else total + _inference_bytes(work.teacher, work)


def checkpoint_bytes(work: TrainingWork) -> int:
    """Return the size of a training's checkpoint: weights and what the optimiser keeps."""
    from distillation.efficiency import network_cost

    parameters = network_cost(work.configuration, channels=work.channels, labels=work.labels).parameters
    return 4 * (1 + NUMBERS_KEPT[work.optimizer]) * parameters


def _kept(network: nn.Module, batch: torch.Tensor) -> tuple[dict[int, int], list[int]]:
    """Return the bytes of every storage that a step keeps for the gradient, and what each stage adds to its input.

    Weights are not counted. A stage that is checkpointed keeps its input alone.
    """
    import torch

    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, int] = {}
    holding: list[torch.Tensor] = []  # a freed storage's address would be used again
    parts: Any = network
    stages: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        holding.append(tensor)
        return tensor

    def enter(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        pack(inputs[0])
        stages.append(-sum(kept.values()))

    def leave(*_: object) -> None:
        stages[-1] += sum(kept.values())

    hooks = []
    for stage in (*parts.encoder.stages, *parts.decoder.stages):
        hooks += [stage.register_forward_pre_hook(enter), stage.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _loss(network(batch))
    for hook in hooks:
        hook.remove()
    return kept, stages


def measure_steps(work: TrainingWork) -> MeasuredSteps:
    """Run a few steps in a process of their own.

    Raises:
        TrainingError: the process failed, for example for want of memory.
    """
    done = subprocess.run(  # noqa: S603 - this file, with this Python
        [sys.executable, "-m", __name__],
        input=json.dumps(asdict(work)),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return MeasuredSteps(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError) as error:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}; was memory short?"])[-1]
        raise TrainingError(f"a trial step of the training failed: {words}") from error


def _inference_bytes(configuration: dict[str, Any], work: TrainingWork) -> int:
    """Return what the teachers need: weights, and of the one that runs skip connections, logits and largest layer."""
    import torch

    from distillation.teacher import build_network

    largest = 0

    def see(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, 4 * (inputs[0].numel() + output.numel()))

    with torch.device("meta"):
        network = build_network(configuration, channels=work.channels, labels=work.labels, deep_supervision=False)
        for module in network.modules():
            if not any(True for _ in module.children()):
                module.register_forward_hook(see)
        batch = torch.empty(work.batch_size, work.channels, *configuration["patch_size"])
        with torch.inference_mode():
            skips: list[torch.Tensor] = network.get_submodule("encoder")(batch)
            kept = (*skips, network(batch))
    weights: int = 4 * sum(parameter.numel() for parameter in network.parameters())
    bytes_kept: int = sum(4 * tensor.numel() for tensor in kept)
    averaged: int = 4 * kept[-1].numel() * min(work.teachers - 1, 2)  # the mean so far, and this network's share of it
    return work.teachers * weights + bytes_kept + largest + averaged


def _loss(outputs: list[torch.Tensor]) -> torch.Tensor:
    """Return a loss with the memory and cost of Dice and cross-entropy over all deep-supervision heads."""
    import torch

    total = torch.zeros((), device=outputs[0].device)
    for output in outputs:
        target = torch.zeros(output.shape[0], *output.shape[2:], dtype=torch.long, device=output.device)
        total = total + torch.nn.functional.cross_entropy(output, target) - torch.softmax(output, 1)[:, 1:].mean()
    return total


def _measure(work: TrainingWork) -> MeasuredSteps:
    import torch

    from distillation.distiller import mean_logits
    from distillation.gradient_checkpointing import checkpoint_stages
    from distillation.losses.logit import LogitLoss
    from distillation.precision import training_dtype
    from distillation.teacher import build_network

    torch.manual_seed(0)
    counts = {"channels": work.channels, "labels": work.labels}
    network = build_network(work.configuration, **counts, deep_supervision=True)
    network = network.to(memory_format=torch.channels_last_3d)
    if work.gradient_checkpointing:
        checkpoint_stages(network)
    teachers: list[nn.Module] = []
    for configuration in [work.teacher] * work.teachers if work.teacher is not None else ():
        teacher = build_network(configuration, **counts, deep_supervision=False).eval()
        teachers.append(teacher.to(memory_format=torch.channels_last_3d))
    distillation = LogitLoss(weight=1.0, temperature=2.0)
    optimiser = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)
    batch = torch.randn(work.batch_size, work.channels, *work.configuration["patch_size"])
    batch = batch.contiguous(memory_format=torch.channels_last_3d)
    dtype = training_dtype(work.precision, torch.device("cpu"))
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
    steps, validations = [], []
    for _ in range(1 + _MEASURED_STEPS):
        start = time.perf_counter()
        with autocast:
            outputs = network(batch)
        loss = _loss([output.float() for output in outputs])
        if teachers:
            with torch.no_grad(), autocast:
                logits = mean_logits(teachers, batch)[0]
            loss = loss + distillation.divergence(outputs[0], logits)
            del logits
        del outputs
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        steps.append(time.perf_counter() - start)
        del loss
        start = time.perf_counter()
        with torch.inference_mode(), autocast:
            network(batch)
        validations.append(time.perf_counter() - start)
    return MeasuredSteps(
        step_seconds=median(steps[1:]),
        validation_seconds=median(validations[1:]),
        augmentation_seconds=measure_augmentation(work),
        peak_bytes=peak_memory(),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(TrainingWork.from_json(sys.stdin.read())))))  # noqa: T201 - the result

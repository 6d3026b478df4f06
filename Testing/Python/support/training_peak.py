"""The largest memory of a process that trains for two steps; the script reads a TrainingWork as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict

from distillation.run.memory import TrainingWork, _distiller, _labels, _networks, _segmentation_loss


def measured_peak(work: TrainingWork) -> int | None:
    """Return the peak in bytes, None where the operating system does not tell."""
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(asdict(work)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak: int | None = json.loads(done.stdout.splitlines()[-1])
    return peak


def train(work: TrainingWork) -> None:
    """Train a network with random weights on random numbers, as the trainers do."""
    import torch

    from distillation.torch_tuning import checkpoint_stages

    network, teachers = _networks(work)
    if work.gradient_checkpointing:
        checkpoint_stages(network)
    distiller = _distiller(work, network, teachers, torch.device("cpu"), nullcontext)
    trained = list(network.parameters())
    if distiller is not None:
        trained += distiller.parts.parameters()
    optimiser = torch.optim.SGD(trained, 1e-3, momentum=0.99, nesterov=True)
    batch = torch.randn(work.batch_size, work.channels, *work.configuration["patch_size"])
    batch = batch.contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        labels = _labels([each.expand(work.batch_size, *each.shape[1:]) for each in network(batch[:1])], work.labels)
    segmentation = _segmentation_loss(work, len(labels))
    for _ in range(2):  # the optimiser's numbers are there from the second one on
        optimiser.zero_grad(set_to_none=True)
        outputs = network(batch)
        terms = [segmentation(outputs, labels)]
        if distiller is not None:
            terms += distiller.losses(batch, outputs, labels, 1.0).values()
        loss = torch.stack(terms).sum()
        loss.backward()
        optimiser.step()
        del loss, terms, outputs


if __name__ == "__main__":
    from distillation.torch_tuning import kept_memory
    from KDSegmentatorLib.machine.hardware import peak_memory

    with kept_memory():
        train(TrainingWork(**json.loads(sys.stdin.read())))
        print(json.dumps(peak_memory()))

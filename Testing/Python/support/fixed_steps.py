"""A few optimiser steps on fixed batches, alone or as one of several processes.

``python fixed_steps.py RAW PREPROCESSED RESULTS PLANS_FILE OUTPUT``; every process writes ``OUTPUT/<its number>.pt``:
mean loss of each step, weights of the student, and what the losses trained along.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from distillation import distributed
from distillation.launch import Workspace
from support.tiny_training import make_trainer

STEPS = 4


def fixed_batch(trainer, step):
    """The part of this process of the batch of all processes: two patches, one of them without the second label."""
    random = torch.Generator().manual_seed(step)
    patch = trainer.configuration_manager.patch_size
    labels = torch.randint(0, 3, (2, 1, *patch), generator=random).float()
    labels[1] = labels[1].clamp(max=1)
    data = labels + torch.randn(2, 1, *patch, generator=random)
    own = slice(distributed.process_rank(), None, distributed.process_count())
    target = []
    for scales in trainer._get_deep_supervision_scales():
        depth, height, width = (round(1 / scale) for scale in scales)
        target.append(labels[own, :, ::depth, ::height, ::width])
    return {"data": data[own], "target": target}


def main(raw, preprocessed, results, plans, output):
    torch.set_num_threads(1)
    space = Workspace(raw=Path(raw), preprocessed=Path(preprocessed), results=Path(results))
    distributed.join_processes("cpu")
    with space.activated():
        trainer = make_trainer(space, json.loads(Path(plans).read_text()))
        trainer.network.train()
        losses = []
        for step in range(STEPS):
            batch = fixed_batch(trainer, step)
            assert len(batch["data"]) == trainer.batch_size
            loss = torch.tensor(float(trainer.train_step(batch)["loss"]))
            losses.append(distributed.mean_over_processes(loss).item())
        content = {
            "losses": losses,
            "weights": trainer.bare_network.state_dict(),
            "parts": trainer.distiller.parts.state_dict(),
            "processes": distributed.process_count(),
        }
        torch.save(content, Path(output) / f"{distributed.process_rank()}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])

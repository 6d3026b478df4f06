"""The counted cost of a training against a real one's: checkpoints, optimisers, distillation losses."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.efficiency import count_parameters  # noqa: E402
from distillation.run.training_cost import checkpoint_bytes, measure_steps, training_bytes  # noqa: E402
from distillation.run.training_work import TrainingWork  # noqa: E402
from distillation.settings import Optimizer, TrainingSettings  # noqa: E402
from distillation.teacher import build_network  # noqa: E402
from distillation.trainers import KDSegPlainTrainer  # noqa: E402

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def work(plans: Callable[..., Any], features: tuple[int, ...], patch: tuple[int, ...]) -> TrainingWork:
    return TrainingWork(
        configuration=plans(PLAIN, features, patch)["configurations"]["3d_fullres"],
        teacher=None,
        channels=1,
        labels=3,
        batch_size=2,
        steps=10,
        validation_steps=4,
        precision="float32",
    )


LOGIT = {"logit": {"weight": 1.0, "temperature": 2.0}}
RECO = {"ms_sard": {"weight": 0.01}, "ms_ca": {"weight": 0.01}}
CWD = {"cwd": {"weight": 1.0}}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimisers_numbers_are_counted(plans: Callable[..., Any], optimizer: Optimizer) -> None:
    """Against a checkpoint of the optimiser that the trainer makes."""
    asked = replace(work(plans, (16, 32, 64), (8, 8, 8)), optimizer=optimizer)
    network = build_network(asked.configuration, channels=1, labels=3, deep_supervision=True)
    trainer = KDSegPlainTrainer.__new__(KDSegPlainTrainer)
    trainer.settings = TrainingSettings(epochs=1, optimizer=optimizer)
    trainer.network, trainer.initial_lr, trainer.weight_decay, trainer.num_epochs = network, 1e-3, 3e-5, 1
    made, _ = trainer.configure_optimizers()
    torch.stack([output.square().mean() for output in network(torch.randn(2, 1, 8, 8, 8))]).sum().backward()
    made.step()
    written = io.BytesIO()
    torch.save({"network_weights": network.state_dict(), "optimizer_state": made.state_dict()}, written)
    assert checkpoint_bytes(asked) == pytest.approx(written.tell(), rel=0.15)


def test_memory_holds_the_optimisers_numbers(plans: Callable[..., Any]) -> None:
    asked = work(plans, (16, 32, 64), (16, 16, 16))
    parameters = count_parameters(build_network(asked.configuration, channels=1, labels=3, deep_supervision=True))
    assert training_bytes(replace(asked, optimizer="adamw")) - training_bytes(asked) == 2 * 4 * parameters


def test_feature_losses_are_counted_as_they_are_measured(plans: Callable[..., Any]) -> None:
    patch = (64, 64, 64)
    teacher = work(plans, (32, 64, 64), patch).configuration
    logit = replace(work(plans, (8, 16, 32), patch), teacher=teacher, losses=LOGIT)
    both = replace(logit, losses={**LOGIT, **RECO})
    maps = 4 * 2 * 32 * 64**3  # the student's features at full resolution, mapped to the teacher's channels
    assert training_bytes(both) - training_bytes(logit) > 3 * maps
    assert training_bytes(replace(logit, losses={**LOGIT, **CWD})) - training_bytes(logit) > 3 * maps
    for asked in (both, replace(logit, losses=RECO)):  # with the teacher's decoder and without
        measured = measure_steps(asked)
        assert measured.step_seconds > 0
        if measured.peak_bytes is not None:
            assert training_bytes(asked) == pytest.approx(measured.peak_bytes, rel=0.15)
    assert training_bytes(replace(logit, losses=RECO)) < training_bytes(both)


def test_what_is_trained_along_is_in_the_checkpoint(plans: Callable[..., Any]) -> None:
    """Maps of the student's channels to the teacher's: 8 to 16, and 16 to 32, with their offsets."""
    teacher = work(plans, (16, 32, 64), (16, 16, 16)).configuration
    student = replace(work(plans, (8, 16, 32), (16, 16, 16)), teacher=teacher, losses=LOGIT)
    along = checkpoint_bytes(replace(student, losses=CWD)) - checkpoint_bytes(student)
    assert along == 2 * 4 * (8 * 16 + 16 + 16 * 32 + 32)

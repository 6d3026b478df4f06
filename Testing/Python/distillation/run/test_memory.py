"""The counted memory of a training against a real one's: checkpoints, optimisers, distillation losses."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.network_cost import count_parameters, network_cost  # noqa: E402
from distillation.run.memory import PROCESS_BYTES, TrainingWork, checkpoint_bytes, training_bytes  # noqa: E402
from distillation.teacher import build_network  # noqa: E402
from distillation.trainers import KDSegPlainTrainer  # noqa: E402
from distillation.training_settings import Optimizer, TrainingSettings  # noqa: E402
from support.training_peak import measured_peak  # noqa: E402

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def configuration(plans: Callable[..., Any], features: Sequence[int], patch: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = plans(PLAIN, tuple(features), tuple(patch))["configurations"]["3d_fullres"]
    return found


def work(configuration: dict[str, Any], teacher: dict[str, Any] | None = None) -> TrainingWork:
    return TrainingWork(
        configuration=configuration,
        teacher=teacher,
        losses={} if teacher is None else {"logit": {"weight": 1.0, "temperature": 2.0}},
        channels=1,
        labels=3,
        batch_size=2,
    )


LOGIT = {"logit": {"weight": 1.0, "temperature": 2.0}}
RECO = {"ms_sard": {"weight": 0.01}, "ms_ca": {"weight": 0.01}}
CWD = {"cwd": {"weight": 1.0}}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimisers_numbers_are_counted(plans: Callable[..., Any], optimizer: Optimizer) -> None:
    """Against a checkpoint of the optimiser that the trainer makes."""
    asked = replace(work(configuration(plans, (16, 32, 64), (8, 8, 8))), optimizer=optimizer)
    network = build_network(asked.configuration, channels=1, labels=3, deep_supervision=True)
    trainer = KDSegPlainTrainer.__new__(KDSegPlainTrainer)
    trainer.settings = TrainingSettings(epochs=1, optimizer=optimizer)
    trainer.network, trainer.initial_lr, trainer.weight_decay, trainer.num_epochs = network, 1e-3, 3e-5, 1
    trainer.num_iterations_per_epoch = 1
    made, _ = trainer.configure_optimizers()
    torch.stack([output.square().mean() for output in network(torch.randn(2, 1, 8, 8, 8))]).sum().backward()
    made.step()
    written = io.BytesIO()
    torch.save({"network_weights": network.state_dict(), "optimizer_state": made.state_dict()}, written)
    assert checkpoint_bytes(asked) == pytest.approx(written.tell(), rel=0.15)


def test_memory_holds_the_optimisers_numbers(plans: Callable[..., Any]) -> None:
    asked = work(configuration(plans, (16, 32, 64), (16, 16, 16)))
    parameters = count_parameters(build_network(asked.configuration, channels=1, labels=3, deep_supervision=True))
    assert training_bytes(replace(asked, optimizer="adamw")) - training_bytes(asked) == 2 * 4 * parameters


def test_feature_losses_are_counted_as_they_are_measured(plans: Callable[..., Any]) -> None:
    patch = (64, 64, 64)
    teacher = configuration(plans, (32, 64, 64), patch)
    logit = replace(work(configuration(plans, (8, 16, 32), patch)), teacher=teacher, losses=LOGIT)
    both = replace(logit, losses={**LOGIT, **RECO})
    maps = 4 * 2 * 32 * 64**3  # the student's features at full resolution, mapped to the teacher's channels
    assert training_bytes(both) - training_bytes(logit) > 3 * maps
    assert training_bytes(replace(logit, losses={**LOGIT, **CWD})) - training_bytes(logit) > 3 * maps
    for asked in (both, replace(logit, losses=RECO)):  # with the teacher's decoder and without
        measured = measured_peak(asked)
        if measured is not None:
            assert training_bytes(asked) == pytest.approx(measured, rel=0.15)
    assert training_bytes(replace(logit, losses=RECO)) < training_bytes(both)


def test_what_is_trained_along_is_in_the_checkpoint(plans: Callable[..., Any]) -> None:
    """Maps of the student's channels to the teacher's: 8 to 16, and 16 to 32, with their offsets."""
    teacher = configuration(plans, (16, 32, 64), (16, 16, 16))
    student = replace(work(configuration(plans, (8, 16, 32), (16, 16, 16))), teacher=teacher, losses=LOGIT)
    along = checkpoint_bytes(replace(student, losses=CWD)) - checkpoint_bytes(student)
    assert along == 2 * 4 * (8 * 16 + 16 + 16 * 32 + 32)


def test_memory_is_forecast_as_it_is_measured(plans: Callable[..., Any]) -> None:
    asked = work(configuration(plans, (8, 16, 32), (64, 64, 96)), configuration(plans, (16, 32, 64), (64, 64, 96)))
    measured = measured_peak(asked)
    if measured is not None:
        assert training_bytes(asked) == pytest.approx(measured, rel=0.25)


def test_gradient_checkpointing_takes_less_memory_as_it_is_measured(plans: Callable[..., Any]) -> None:
    """Of a network of several convolutions a stage: what is between them is not kept."""
    several = configuration(plans, (16, 32, 64), (64, 64, 64))
    several["architecture"]["arch_kwargs"].update(n_conv_per_stage=[4, 4, 4], n_conv_per_stage_decoder=[4, 4])
    kept = work(several)
    recomputed = replace(kept, gradient_checkpointing=True)
    expected = training_bytes(kept) - training_bytes(recomputed)
    measured = [measured_peak(each) for each in (kept, recomputed)]
    if measured[0] is not None and measured[1] is not None:
        assert measured[0] - measured[1] == pytest.approx(expected, rel=0.5)
        assert training_bytes(recomputed) == pytest.approx(measured[1], rel=0.3)


def test_memory_grows_with_patch_and_teacher(plans: Callable[..., Any]) -> None:
    small, large = (configuration(plans, (16, 32, 64), (size,) * 3) for size in (64, 128))
    plain = training_bytes(work(small))
    assert training_bytes(work(small, configuration(plans, (64, 128, 128), (64,) * 3))) > plain
    assert training_bytes(work(large)) - PROCESS_BYTES == pytest.approx(8 * (plain - PROCESS_BYTES), rel=0.05)


def test_every_fold_of_the_teacher_counts(plans: Callable[..., Any]) -> None:
    student, teacher = (configuration(plans, features, (16, 16, 16)) for features in ((8, 16, 32), (64, 128, 128)))
    one, two, four = (training_bytes(replace(work(student, teacher), teachers=count)) for count in (1, 2, 4))
    weights = 4 * network_cost(teacher, channels=1, labels=3).parameters
    logits = 4 * 2 * 3 * 16**3
    assert two - one == weights + logits  # the mean so far
    assert four - two == 2 * weights + logits  # this network's share of it

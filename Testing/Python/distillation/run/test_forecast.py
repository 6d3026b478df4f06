from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import distillation.run.forecast as module
from distillation.dataset import read_dataset, read_header
from distillation.efficiency import network_cost
from distillation.recipe import Recipe
from distillation.run.forecast import Forecast, bytes_text, check_machine
from distillation.run.steps import STAGES, Step, parse_stages
from distillation.run.training_cost import measure_steps, training_bytes
from distillation.run.training_work import MeasuredSteps, TrainingWork
from distillation.students import Student
from KDSegmentatorLib.errors import InsufficientMemoryError, InvalidSettingsError, TrainingError


def work(configuration: dict[str, Any], teacher: dict[str, Any] | None = None) -> TrainingWork:
    return TrainingWork(
        configuration=configuration,
        teacher=teacher,
        losses={} if teacher is None else {"logit": {"weight": 1.0, "temperature": 2.0}},
        channels=1,
        labels=3,
        batch_size=2,
        steps=10,
        validation_steps=4,
        precision="float32",
    )


def configuration(plans: Callable[..., Any], features: Sequence[int], patch: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = plans(
        "dynamic_network_architectures.architectures.unet.PlainConvUNet", tuple(features), tuple(patch)
    )["configurations"]["3d_fullres"]
    return found


def test_memory_is_forecast_as_it_is_measured(plans: Callable[..., Any]) -> None:
    asked = work(configuration(plans, (8, 16, 32), (64, 64, 96)), configuration(plans, (16, 32, 64), (64, 64, 96)))
    measured = measure_steps(asked)
    assert measured.step_seconds > 0
    assert measured.augmentation_seconds > 0
    if measured.peak_bytes is not None:
        assert training_bytes(asked) == pytest.approx(measured.peak_bytes, rel=0.25)


def test_gradient_checkpointing_takes_less_memory_as_it_is_measured(plans: Callable[..., Any]) -> None:
    """Of a network of several convolutions a stage: what is between them is not kept."""
    several = configuration(plans, (16, 32, 64), (64, 64, 96))
    several["architecture"]["arch_kwargs"].update(n_conv_per_stage=[4, 4, 4], n_conv_per_stage_decoder=[4, 4])
    kept = work(several)
    recomputed = replace(kept, gradient_checkpointing=True)
    expected = training_bytes(kept) - training_bytes(recomputed)
    measured = [measure_steps(each).peak_bytes for each in (kept, recomputed)]
    if measured[0] is not None and measured[1] is not None:
        assert measured[0] - measured[1] == pytest.approx(expected, rel=0.5)
        assert training_bytes(recomputed) == pytest.approx(measured[1], rel=0.3)


@pytest.mark.parametrize(("processes", "step"), [(0, 3.0 + 2 * 0.5), (1, 3.0), (12, 3.0)])
def test_augmentation_adds_to_a_step_where_no_process_does_it_beside(
    plans: Callable[..., Any], processes: int, step: float
) -> None:
    measured = MeasuredSteps(step_seconds=3.0, validation_seconds=1.0, augmentation_seconds=0.5, peak_bytes=None)
    asked = work(configuration(plans, (8, 16, 32), (16, 16, 16)))
    assert asked.seconds(measured, processes=processes) == 10 * step + 4 * 1.0
    slow = replace(measured, augmentation_seconds=6.0)
    assert asked.seconds(slow, processes=2) == 10 * 6.0 + 4 * 1.0


def test_memory_grows_with_patch_and_teacher(plans: Callable[..., Any]) -> None:
    small, large = (configuration(plans, (16, 32, 64), (size,) * 3) for size in (64, 128))
    plain = training_bytes(work(small))
    assert training_bytes(work(small, configuration(plans, (64, 128, 128), (64,) * 3))) > plain
    from distillation.run.training_cost import PROCESS_BYTES

    assert training_bytes(work(large)) - PROCESS_BYTES == pytest.approx(8 * (plain - PROCESS_BYTES), rel=0.05)


def test_every_fold_of_the_teacher_counts(plans: Callable[..., Any]) -> None:
    student, teacher = (configuration(plans, features, (16, 16, 16)) for features in ((8, 16, 32), (64, 128, 128)))
    one, two, four = (training_bytes(replace(work(student, teacher), teachers=count)) for count in (1, 2, 4))
    weights = 4 * network_cost(teacher, channels=1, labels=3).parameters
    logits = 4 * 2 * 3 * 16**3
    assert two - one == weights + logits  # the mean so far
    assert four - two == 2 * weights + logits  # this network's share of it


def test_a_students_forecast_is_of_its_own_network(plans: Callable[..., Any], recipe: Recipe) -> None:
    """A student whose smallest width is its own, and whose teacher has several folds."""
    student = replace(recipe.students[0], minimum_width=16, warm_up_epochs=1)
    folds = replace(recipe.teacher, folder="given", folds=(0, 1, 2), accept_leakage=True)
    raw = SimpleNamespace(description={"channel_names": {"0": "MRI"}}, labels={"background": 0, "Front": 1, "Back": 2})
    stages = SimpleNamespace(
        recipe=replace(recipe, students=(student,), teacher=folds),
        prepared=lambda: SimpleNamespace(plans=plans(features=(16, 32)), raw=raw),
        warm_up=lambda size: "new",
    )
    forecasts = module.Forecasts(stages, measure=False)  # type: ignore[arg-type]
    for method, teachers in (("plain", 1), ("logit", 3)):
        warm_up, distilled = forecasts._works(replace(step(), student=Student(size="x1/2", method=method)))
        for found in (warm_up, distilled):
            assert found.configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 16]
        assert (warm_up.steps, warm_up.teacher, warm_up.teachers) == (3, None, 1)
        assert (distilled.steps, distilled.teachers) == (6, teachers)
        assert (distilled.teacher is None) == (method == "plain")
    stages.warm_up = lambda size: "done"  # by another method of the size
    assert len(forecasts._works(replace(step(), student=Student(size="x1/2", method="plain")))) == 1


def test_processes_of_torchrun_share_the_batch(
    plans: Callable[..., Any], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = SimpleNamespace(description={"channel_names": {"0": "MRI"}}, labels={"background": 0, "Front": 1, "Back": 2})
    training = replace(recipe.training, batch_size=4)
    prepared = SimpleNamespace(plans=plans(features=(16, 32, 64)), raw=raw)
    stages = SimpleNamespace(recipe=replace(recipe, training=training), prepared=lambda: prepared)
    forecasts = module.Forecasts(stages, measure=False)  # type: ignore[arg-type]
    (alone,) = forecasts._works(replace(step(), stage="teacher"))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # on two machines
    (together,) = forecasts._works(replace(step(), stage="teacher"))
    assert (alone.batch_size, together.batch_size) == (4, 1)
    monkeypatch.setattr(forecasts, "_from_log", lambda _: None)
    assert forecasts._of_training(replace(step(), stage="teacher")).memory_bytes == 2 * training_bytes(together)


@pytest.mark.parametrize(("spacing", "finer"), [(None, 1), ((0.5, 0.5, 1.0), 4)])
def test_prepared_data_is_counted_as_it_is_resampled(
    spheres: Path, recipe: Recipe, spacing: tuple[float, float, float] | None, finer: int
) -> None:
    """Images of 1 mm, one channel of float32 and labels in 16 bits."""
    dataset = replace(recipe.dataset, spacing=spacing)
    stages = SimpleNamespace(
        recipe=replace(recipe, dataset=dataset), workspace=SimpleNamespace(raw=spheres.parent), given_teacher=None
    )
    voxels = sum(read_header(case.image).voxels.size for case in read_dataset(spheres).cases)
    assert module.Forecasts(stages, measure=False)._prepared_bytes() == finer * 6 * voxels  # type: ignore[arg-type]


def step() -> Step:
    return Step(stage="students", name="student x1/4 logit", inputs=dict, outputs=list, work=lambda: None)


def test_a_machine_that_is_too_small_is_refused(tmp_path: Path) -> None:
    check_machine(step(), Forecast(memory_bytes=1, disk_bytes=1), tmp_path, device="cpu")
    with pytest.raises(InsufficientMemoryError, match=r"student x1/4 logit needs about 1000000\.0 GB.*batch_size"):
        check_machine(step(), Forecast(memory_bytes=10**15), tmp_path, device="cpu")
    check_machine(step(), Forecast(memory_bytes=10**15), tmp_path, device="cuda")
    with pytest.raises(TrainingError, match=r"will write about 1000000000\.0 GB.*--workspace"):
        check_machine(step(), Forecast(disk_bytes=10**18), tmp_path, device="cpu")


def test_no_trial_steps_where_they_would_not_fit(plans: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: TrainingWork) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(module, "measure_steps", forbidden)
    forecasts = module.Forecasts(None, measure=True)  # type: ignore[arg-type]
    assert forecasts._steps_of(work(configuration(plans, (16, 32, 64), (16,) * 3)), 10**15) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, STAGES),
        ("evaluate", ("evaluate",)),
        ("students-export", ("students", "evaluate", "export")),
    ],
)
def test_stages_by_name(text: str | None, expected: tuple[str, ...]) -> None:
    assert parse_stages(text) == expected


@pytest.mark.parametrize("text", ["", "train", "export-students", "prepare-teacher-students", "prepare-"])
def test_stages_that_make_no_sense(text: str) -> None:
    with pytest.raises(InvalidSettingsError, match="--stage"):
        parse_stages(text)


@pytest.mark.parametrize(("count", "text"), [(3.21e9, "3.2 GB"), (1e8, "0.1 GB"), (2_000_001, "3 MB"), (0, "0 MB")])
def test_sizes_for_people(count: float, text: str) -> None:
    assert bytes_text(count) == text

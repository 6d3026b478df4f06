from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import distillation.run.forecast as module
from distillation.dataset import read_dataset, read_header
from distillation.recipe import Recipe
from distillation.run.forecast import Forecast, bytes_text, describe_forecast
from distillation.run.memory import training_bytes
from distillation.run.runner import check_machine
from distillation.run.steps import STAGES, Step, parse_stages
from distillation.students import Student
from KDSegmentatorLib.errors import InsufficientMemoryError, InvalidSettingsError, TrainingError


def test_a_students_forecast_is_of_its_own_network(plans: Callable[..., Any], recipe: Recipe) -> None:
    """A student whose smallest width is its own, and whose teacher has several folds."""
    student = replace(recipe.students[0], minimum_width=16, warm_up_epochs=1)
    folds = replace(recipe.teacher, folder="given", folds=(0, 1, 2), accept_leakage=True)
    raw = SimpleNamespace(description={"channel_names": {"0": "MRI"}}, labels={"background": 0, "Front": 1, "Back": 2})
    stages = SimpleNamespace(
        recipe=replace(recipe, students=(student,), teacher=folds),
        trainings=SimpleNamespace(
            prepared=lambda: SimpleNamespace(plans=plans(features=(16, 32)), raw=raw),
            warm_up=lambda size: "new",
        ),
    )
    forecasts = module.Forecasts(stages)  # type: ignore[arg-type]
    for method, teachers in (("plain", 1), ("logit", 3)):
        warm_up, distilled = forecasts._works(replace(step(), student=Student(size="x1/2", method=method)))
        for found in (warm_up, distilled):
            assert found.configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 16]
        assert (warm_up.teacher, warm_up.teachers) == (None, 1)
        assert distilled.teachers == teachers
        assert (distilled.teacher is None) == (method == "plain")
    stages.trainings.warm_up = lambda size: "done"  # by another method of the size
    assert len(forecasts._works(replace(step(), student=Student(size="x1/2", method="plain")))) == 1


def test_processes_of_torchrun_share_the_batch(
    plans: Callable[..., Any], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = SimpleNamespace(description={"channel_names": {"0": "MRI"}}, labels={"background": 0, "Front": 1, "Back": 2})
    training = replace(recipe.training, batch_size=4)
    prepared = SimpleNamespace(plans=plans(features=(16, 32, 64)), raw=raw)
    stages = SimpleNamespace(
        recipe=replace(recipe, training=training), trainings=SimpleNamespace(prepared=lambda: prepared)
    )
    forecasts = module.Forecasts(stages)  # type: ignore[arg-type]
    (alone,) = forecasts._works(replace(step(), stage="teacher"))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # on two machines
    (together,) = forecasts._works(replace(step(), stage="teacher"))
    assert (alone.batch_size, together.batch_size) == (4, 1)
    monkeypatch.setattr(forecasts, "_seconds_left", lambda _: None)
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
    assert module.Forecasts(stages)._prepared_bytes() == finer * 6 * voxels  # type: ignore[arg-type]


def step(folder: Path = Path("nowhere")) -> Step:
    return Step(
        stage="students",
        name="student x1/4 logit",
        progress=lambda: "new",
        work=lambda: None,
        model_folder=lambda: folder,
        student=Student(size="x1/2", method="plain"),
    )


def test_time_comes_from_the_epochs_that_are_done(recipe: Recipe, tmp_path: Path) -> None:
    forecasts = module.Forecasts(SimpleNamespace(recipe=recipe))  # type: ignore[arg-type]
    assert forecasts._seconds_left(step(tmp_path)) is None
    assert describe_forecast(Forecast(memory_bytes=10**9)) == (
        "time known after its first epoch or case, 1.0 GB of memory"
    )
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "training_log.csv").write_text("epoch,iteration,loss,seconds\n0,3,1.5,90\n")
    assert forecasts._seconds_left(step(tmp_path)) == 90  # one of two epochs is left
    said = describe_forecast(Forecast(seconds=120, source="training log"))
    assert said == "about 2 min (training log)"


def test_a_machine_that_is_too_small_is_refused(tmp_path: Path) -> None:
    check_machine(step(), Forecast(memory_bytes=1, disk_bytes=1), tmp_path, device="cpu")
    with pytest.raises(InsufficientMemoryError, match=r"student x1/4 logit needs about 1000000\.0 GB.*batch_size"):
        check_machine(step(), Forecast(memory_bytes=10**15), tmp_path, device="cpu")
    check_machine(step(), Forecast(memory_bytes=10**15), tmp_path, device="cuda")
    with pytest.raises(TrainingError, match=r"will write about 1000000000\.0 GB.*--workspace"):
        check_machine(step(), Forecast(disk_bytes=10**18), tmp_path, device="cpu")


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

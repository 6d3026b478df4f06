"""Fingerprint, plan and preprocess a dataset with stock nnU-Net, after checks that take seconds."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from distillation.dataset import RawDataset, check_grids, find_dataset
from distillation.plans import check_architecture, read_plans, resolve_configuration
from distillation.source_files import changed_sources, clear_prepared, record_sources
from distillation.splits import SPLITS_NAME, read_splits, write_splits
from KDSegmentatorLib.errors import InvalidSettingsError, KDSegmentatorError, TrainingError
from KDSegmentatorLib.io.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distillation.launch import Workspace
    from distillation.recipe import DatasetRecipe

_MAXIMUM_PROCESSES = 8


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """A dataset that networks can be trained on.

    Attributes:
        raw: the dataset.
        folder: its preprocessed folder.
        plans: nnU-Net's plans, the teacher's if a teacher was given.
    """

    raw: RawDataset
    folder: Path
    plans: dict[str, Any]

    def held_out_cases(self, fold: int) -> tuple[str, ...]:
        """Return the names of the validation cases of a fold.

        Raises:
            TrainingError: the split's file is damaged or has no such fold.
        """
        path = self.folder / SPLITS_NAME
        splits = read_splits(path)
        if not fold < len(splits):
            raise TrainingError(
                f"{path} has {len(splits)} folds, so that there is no fold {fold}; correct or remove it"
            )
        return tuple(sorted(splits[fold]["val"]))


def prepare(
    workspace: Workspace, recipe: DatasetRecipe, *, teacher_plans: dict[str, Any] | None = None
) -> PreparedDataset:
    """Prepare a dataset, or return at once if that was done before from the same files.

    Args:
        workspace: nnU-Net's folders.
        recipe: dataset, planner and configuration.
        teacher_plans: plans of an existing teacher; the data is then preprocessed as the teacher's was, and nothing is
            planned.

    Raises:
        InvalidSettingsError: there is no such dataset, planner or configuration.
        TrainingError: the dataset does not pass the checks, nnU-Net fails on it, or its files have changed since
            networks were trained on them.
    """
    raw = find_dataset(workspace.raw, recipe.name)
    folder = workspace.preprocessed / recipe.name
    if teacher_plans is not None and teacher_plans.get("dataset_name") not in (None, recipe.name):
        raise TrainingError(
            f"the teacher was trained on {teacher_plans['dataset_name']}, the recipe is for {recipe.name}; its labels "
            "would mean something else"
        )
    changed = changed_sources(raw, folder)
    if changed:
        clear_prepared(folder, workspace.results / recipe.name, changed)
    prepared = find_prepared(workspace, recipe, raw, teacher_plans)
    record_sources(raw, folder)
    if prepared is not None:
        return prepared
    check_grids(raw)
    with workspace.activated():
        plans = _fingerprint_and_plan(raw, folder, recipe, teacher_plans)
        configuration = resolve_configuration(plans, recipe.configuration)
        check_architecture(configuration)
        write_splits(raw, folder, recipe.groups, recipe.held_out)
        _preprocess(raw, plans, recipe.configuration)
    prepared = find_prepared(workspace, recipe, raw, teacher_plans)
    if prepared is None:
        raise TrainingError(f"nnU-Net did not preprocess every case of {recipe.name} into {folder}; see its messages")
    return prepared


def find_prepared(
    workspace: Workspace, recipe: DatasetRecipe, raw: RawDataset, teacher_plans: dict[str, Any] | None = None
) -> PreparedDataset | None:
    """Return the prepared dataset if it is complete, None otherwise.

    Raises:
        TrainingError: it was prepared, but differently from what the teacher needs, or its split is not the recipe's.
    """
    folder = workspace.preprocessed / recipe.name
    name = teacher_plans["plans_name"] if teacher_plans else plans_name(recipe)
    path = folder / f"{name}.json"
    if teacher_plans is not None and not path.is_file():
        path = folder / f"{plans_name(recipe)}.json"
    if not path.is_file() or not (folder / SPLITS_NAME).is_file():
        return None
    plans = read_plans(path)
    configuration = resolve_configuration(plans, recipe.configuration)
    if teacher_plans is not None:
        _check_same_preprocessing(plans, teacher_plans, recipe.configuration, folder)
        plans = teacher_plans
    data = folder / configuration["data_identifier"]
    # nnU-Net writes a case's .pkl after its voxels
    if not all((data / f"{case.name}.pkl").is_file() for case in raw.cases):
        return None
    write_splits(raw, folder, recipe.groups, recipe.held_out)  # checks the one that is there
    return PreparedDataset(raw=raw, folder=folder, plans=plans)


def plans_name(recipe: DatasetRecipe) -> str:
    """Return the name of the plans that a recipe's planner writes: the planner's own, and what the recipe changes.

    Raises:
        InvalidSettingsError: nnU-Net has no planner of this name.
    """
    import inspect

    default = inspect.signature(_planner_class(recipe.planner).__init__).parameters["plans_name"].default
    parts = [str(default)]
    if recipe.memory_target_gb is not None:
        parts.append(f"{recipe.memory_target_gb:g}gb".replace(".", "_"))
    if recipe.maximum_features is not None:
        parts.append(f"max{recipe.maximum_features}")
    if recipe.spacing is not None:
        parts.append("x".join(f"{length:g}" for length in recipe.spacing).replace(".", "_") + "mm")
    return "_".join(parts)


def _planner_class(planner: str) -> type[Any]:
    from pathlib import Path

    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    found = recursive_find_python_class(
        str(Path(nnunetv2.__path__[0]) / "experiment_planning"), planner, "nnunetv2.experiment_planning"
    )
    if found is None:
        raise InvalidSettingsError(f"nnU-Net has no planner {planner!r}; for example ExperimentPlanner")
    return cast("type[Any]", found)


def _fingerprint_and_plan(
    raw: RawDataset, folder: Path, recipe: DatasetRecipe, teacher_plans: dict[str, Any] | None
) -> dict[str, Any]:
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    number = _dataset_number(raw)
    try:
        api.extract_fingerprint_dataset(number, num_processes=_processes(), check_dataset_integrity=True, clean=False)
        with _at_least_one_worker():
            _, name = api.plan_experiment_dataset(
                number,
                _planner_class(recipe.planner),
                gpu_memory_target_in_gb=recipe.memory_target_gb,
                overwrite_target_spacing=recipe.spacing,
                overwrite_plans_name=plans_name(recipe),
            )
    except KDSegmentatorError:
        raise
    except Exception as error:  # whatever the data led nnU-Net to
        raise TrainingError(f"nnU-Net cannot plan for {raw.folder}: {error}") from error
    plans = read_plans(folder / f"{name}.json")
    if recipe.maximum_features is not None:
        _limit_features(plans, recipe.maximum_features)
        write_json(folder / f"{name}.json", plans)
    if teacher_plans is not None:
        plans = teacher_plans
        write_json(folder / f"{plans['plans_name']}.json", plans)
    if recipe.configuration not in plans["configurations"]:
        known = ", ".join(sorted(plans["configurations"]))
        raise InvalidSettingsError(f"nnU-Net planned no {recipe.configuration} for {recipe.name}, only: {known}")
    return plans


def _limit_features(plans: dict[str, Any], maximum: int) -> None:
    for configuration in plans["configurations"].values():
        arguments = configuration.get("architecture", {}).get("arch_kwargs", {})
        if "features_per_stage" in arguments:
            arguments["features_per_stage"] = [min(maximum, width) for width in arguments["features_per_stage"]]


@contextmanager
def _at_least_one_worker() -> Iterator[None]:
    """Keep nnU-Net's planner from failing where augmentation runs without worker processes.

    It takes their number as its number of threads, which may not be 0.
    """
    variable = "nnUNet_n_proc_DA"
    before = os.environ.get(variable)
    if before == "0":
        os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ[variable] = before


def _preprocess(raw: RawDataset, plans: dict[str, Any], configuration: str) -> None:
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    try:
        api.preprocess_dataset(_dataset_number(raw), plans["plans_name"], [configuration], [_processes()])
    except Exception as error:  # whatever the data led nnU-Net to
        raise TrainingError(f"nnU-Net cannot preprocess {raw.folder}: {error}") from error


def _check_same_preprocessing(
    plans: dict[str, Any], teacher_plans: dict[str, Any], configuration: str, folder: Path
) -> None:
    """Check that data preprocessed by one plans file is what the teacher expects."""
    own, teachers = (resolve_configuration(each, configuration) for each in (plans, teacher_plans))
    prefixes = ("spacing", "normalization", "use_mask", "resampling", "data_identifier", "preprocessor")
    same = all(own.get(key) == teachers[key] for key in teachers if key.startswith(prefixes)) and all(
        plans.get(key) == teacher_plans.get(key)
        for key in ("transpose_forward", "foreground_intensity_properties_per_channel")
    )
    if not same:
        raise TrainingError(
            f"the data in {folder} was preprocessed differently from the teacher's; give the teacher to 'prepare' too, "
            "in a workspace of its own"
        )


def _dataset_number(raw: RawDataset) -> int:
    return int(raw.folder.name[len("Dataset") :][:3])


def _processes() -> int:
    return max(1, min(_MAXIMUM_PROCESSES, os.cpu_count() or 1))

"""What can be told in seconds before a run of hours: that recipe, dataset and teacher belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillation.dataset import find_dataset
from KDSegmentatorLib.errors import TrainingError

if TYPE_CHECKING:
    from distillation.stages import Stages
    from distillation.teacher import ModelFolder


def check_before_start(stages: Stages) -> None:
    """Check that the labels of the recipe's pack are the dataset's, and that a given teacher can teach.

    Raises:
        TrainingError: the recipe describes other labels than the dataset has.
        TeacherError: see :func:`load_given_teacher`.
        KDSegmentatorError: the dataset is not complete.
    """
    raw = find_dataset(stages.workspace.raw, stages.recipe.dataset.name)
    described = sorted(label.value for label in stages.recipe.pack.labels)
    present = sorted(value for value in raw.labels.values() if value != 0)
    if described != present:
        raise TrainingError(
            f"the recipe's pack describes the labels {described}, but {raw.folder.name} has {present}; correct the "
            "recipe before anything is trained"
        )
    if stages.given_teacher is not None:
        load_given_teacher(stages)


def load_given_teacher(stages: Stages) -> ModelFolder:
    """Load every fold of a given teacher that the recipe takes, as every distilled training will.

    Returns:
        The network of the dataset's fold.

    Raises:
        TeacherError: a fold is missing, damaged or holds code, or was trained for other labels, channels or another
            configuration; see :func:`distillation.teacher.load_teacher_fold`.
        KDSegmentatorError: the dataset is not complete.
    """
    from distillation.teacher import load_teacher_fold

    recipe, source = stages.recipe, stages.teacher()
    dataset = find_dataset(stages.workspace.raw, recipe.dataset.name).description
    models = {
        fold: load_teacher_fold(
            source.folder, fold, source.checkpoint, dataset=dataset, configuration=recipe.dataset.configuration
        )
        for fold in recipe.teacher_folds()
    }
    return models[recipe.dataset.fold]

"""What can be told in seconds before a run of hours: that recipe, dataset and teacher belong together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from distillation.dataset import find_dataset
from KDSegmentatorLib.errors import TeacherError, TrainingError

if TYPE_CHECKING:
    from distillation.dataset import RawDataset
    from distillation.stages import Stages


def check_before_start(stages: Stages) -> None:
    """Check that the labels of the recipe's pack, of the dataset and of a given teacher are the same.

    Raises:
        TrainingError: the recipe describes other labels than the dataset has.
        TeacherError: the given teacher was trained on other labels, or is not an nnU-Net folder.
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
        _check_teacher(stages, raw)


def _check_teacher(stages: Stages, raw: RawDataset) -> None:
    given = stages.given_teacher
    assert given is not None  # noqa: S101 - for the type checker
    path = given.folder / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels = {str(name): int(value) for name, value in content["labels"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TeacherError(
            f"{path} cannot be read ({error}), or its labels are regions; give an nnU-Net v2 folder with plain labels"
        ) from error
    if sorted(labels.values()) != sorted(raw.labels.values()):
        raise TeacherError(
            f"the teacher's labels {labels} are not those of {raw.folder.name}, {raw.labels}; give a teacher that was "
            "trained on this dataset"
        )
    swapped = [name for name, value in raw.labels.items() if name in labels and labels[name] != value]
    if swapped:
        raise TeacherError(
            f"the teacher gives {', '.join(swapped)} another value than {raw.folder.name} does: {labels} and "
            f"{raw.labels}; every structure would be learnt as another one"
        )

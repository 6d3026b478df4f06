"""What the values of a label map mean: brain or not, and how bright in a T1."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path

TABLE_NAME = "labels.json"

_PRIOR_FIELDS = ("mean_of_means", "std_of_means", "mean_of_stds", "std_of_stds")


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTable:
    """The meaning of label values, and T1 intensities on a scale of 0 to 255.

    Attributes:
        intensity_class: label value to intensity class; class 0 is air.
        brain: label values that belong to the brain (tissue, ventricles, lesions).
        prior: (classes, 4) float64, for each class mean and standard deviation over people of the mean intensity, then
            mean and standard deviation of the standard deviation inside a head.
    """

    intensity_class: dict[int, int]
    brain: frozenset[int]
    prior: npt.NDArray[np.float64]

    @property
    def classes(self) -> int:
        """Number of intensity classes, air included."""
        return len(self.prior)


def read_label_table(folder: Path) -> LabelTable:
    """Read ``labels.json`` of a folder of label maps.

    Its fields ``segmentation_targets`` (label to target, 0 for what is no brain), ``t1_intensity_class`` (label to
    class) and ``t1_prior`` (a list of classes 0, 1, ...) are used.

    Raises:
        TrainingError: it is missing, damaged, or a field does not fit the others.
    """
    path = folder / TABLE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        classes = _integers(content["t1_intensity_class"])
        targets = _integers(content["segmentation_targets"])
        rows = sorted(content["t1_prior"], key=lambda row: int(row["class"]))
        prior = np.array([[float(row[field]) for field in _PRIOR_FIELDS] for row in rows]).reshape(-1, 4)
        numbers = [int(row["class"]) for row in rows]
    except FileNotFoundError:
        raise TrainingError(f"there is no {path}; give a folder of label maps with their {TABLE_NAME}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} cannot be read as a table of labels ({type(error).__name__}: {error})") from error
    if numbers != list(range(len(numbers))) or not np.isfinite(prior).all() or (prior < 0).any():
        raise TrainingError(f"{path}: t1_prior must describe the classes 0, 1, ... once each, with numbers from 0 on")
    if classes.get(0) != 0 or set(classes) != set(targets) or not set(classes.values()) <= set(numbers):
        raise TrainingError(
            f"{path}: segmentation_targets and t1_intensity_class must have the same labels, each with a class of "
            "t1_prior, and label 0 must be class 0, air"
        )
    if len(numbers) > 256:
        raise TrainingError(f"{path} has {len(numbers)} intensity classes; at most 256 are supported")
    brain = frozenset(label for label, target in targets.items() if target != 0)
    if not brain or 0 in brain:
        raise TrainingError(
            f"{path}: segmentation_targets must give some labels, but not label 0, a target other than 0"
        )
    return LabelTable(intensity_class=classes, brain=brain, prior=prior)


def _integers(table: dict[str, Any]) -> dict[int, int]:
    return {int(key): int(value) for key, value in table.items()}

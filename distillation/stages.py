"""A recipe at work in a workspace: its trainings, its packs and their evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillation.evaluations import Evaluations
from distillation.exports import Exports
from distillation.trainings import Trainings

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.launch import Workspace
    from distillation.recipe import Recipe
    from distillation.students import TeacherSource


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A recipe at work in a workspace.

    Attributes:
        recipe: what to do.
        workspace: nnU-Net's folders.
        folder: where packs and tables go.
        given_teacher: an existing teacher; None takes the one that the recipe trains.
    """

    recipe: Recipe
    workspace: Workspace
    folder: Path
    given_teacher: TeacherSource | None = None

    @property
    def trainings(self) -> Trainings:
        """Return its data, teacher, soft labels and students."""
        return Trainings(recipe=self.recipe, workspace=self.workspace, given_teacher=self.given_teacher)

    @property
    def exports(self) -> Exports:
        """Return the packs of its networks."""
        return Exports(trainings=self.trainings, folder=self.folder)

    @property
    def evaluations(self) -> Evaluations:
        """Return what is measured of them."""
        return Evaluations(exports=self.exports)

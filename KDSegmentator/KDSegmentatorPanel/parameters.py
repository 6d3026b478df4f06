"""The parameter node as the boxes see it; ``KDSegmentatorParameterNode`` in ``KDSegmentator.py`` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from KDSegmentatorLib.advisor.selection import AUTOMATIC
from KDSegmentatorPanel.batch_panel import BatchInputs
from KDSegmentatorPanel.choices import EngineChoice, Inputs, PairView, PrecisionChoice

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


class Parameters(Protocol):
    """What is stored in the scene."""

    inputVolume: vtkMRMLScalarVolumeNode | None
    task: str
    size: str
    outputSegmentation: vtkMRMLSegmentationNode | None
    leftOut: Sequence[str]
    engine: EngineChoice
    precision: PrecisionChoice
    threads: int
    mirroring: bool
    entropy: bool
    checkInput: bool
    surfaces: bool
    resultSegmentation: vtkMRMLSegmentationNode | None
    firstSegmentation: vtkMRMLSegmentationNode | None
    secondSegmentation: vtkMRMLSegmentationNode | None
    pairView: PairView
    batchInputFolder: str
    batchOutputFolder: str
    batchPattern: str
    batchResume: bool


def inputs_of(parameters: Parameters) -> Inputs:
    """Return the choices of the Segment box."""
    return Inputs(
        volume=parameters.inputVolume,
        task=parameters.task,
        size=parameters.size,
        output=parameters.outputSegmentation,
        left_out=frozenset(parameters.leftOut),
        engine=parameters.engine,
        precision=parameters.precision,
        threads=parameters.threads,
        mirroring=parameters.mirroring,
        entropy=parameters.entropy,
        check_input=parameters.checkInput,
        surfaces=parameters.surfaces,
    )


def batch_inputs_of(parameters: Parameters) -> BatchInputs:
    """Return the choices of the Batch box."""
    return BatchInputs(
        input_folder=parameters.batchInputFolder,
        output_folder=parameters.batchOutputFolder,
        pattern=parameters.batchPattern,
        resume=parameters.batchResume,
        size=parameters.size or AUTOMATIC,
    )

"""What can be chosen in the panel and is stored in the scene, by name: a renamed member breaks saved scenes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from KDSegmentatorPanel.translation import tr as _

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


class EngineChoice(Enum):
    """What runs the network; the value is the library's name for it."""

    AUTOMATIC = "auto"
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"

    def label(self) -> str:
        """Return the text for the user (called by ``parameterNodeWrapper``)."""
        return {
            EngineChoice.AUTOMATIC: _("automatic"),
            EngineChoice.OPENVINO: "OpenVINO",
            EngineChoice.ONNXRUNTIME: "ONNX Runtime",
        }[self]


class PrecisionChoice(Enum):
    """The number format of the network; the value is the library's name for it."""

    AUTOMATIC = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"

    def label(self) -> str:
        """Return the text for the user (called by ``parameterNodeWrapper``)."""
        return _("automatic") if self is PrecisionChoice.AUTOMATIC else self.value


class PairView(Enum):
    """How a pair of segmentations is shown."""

    OVERLAY = "overlay"
    SIDE_BY_SIDE = "side by side"
    CHECKERBOARD = "checkerboard"
    DISAGREEMENT = "disagreement"

    def label(self) -> str:
        """Return the text for the user (called by ``parameterNodeWrapper``)."""
        return {
            PairView.OVERLAY: _("overlay (A filled, B outlined)"),
            PairView.SIDE_BY_SIDE: _("side by side (A left, B right)"),
            PairView.CHECKERBOARD: _("checkerboard (A and B by turns)"),
            PairView.DISAGREEMENT: _("disagreement"),
        }[self]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the user has chosen.

    Attributes:
        volume: the scan.
        task: the family of packs; empty for the first that fits the volume.
        size: of the student; empty for the advised one.
        output: the segmentation to put the result into; None makes a new one.
        left_out: names of the structures that are not wanted.
        engine: what runs the network.
        precision: its number format.
        threads: CPU threads; 0 takes what the machine allows.
        mirroring: average over mirrored windows.
        entropy: also make a map of the uncertainty.
        check_input: refuse volumes that do not fit the task: another modality, a label map, another field of view.
        surfaces: show the result in 3-D.
    """

    volume: vtkMRMLScalarVolumeNode | None = None
    task: str = ""
    size: str = ""
    output: vtkMRMLSegmentationNode | None = None
    left_out: frozenset[str] = frozenset()
    engine: EngineChoice = EngineChoice.AUTOMATIC
    precision: PrecisionChoice = PrecisionChoice.AUTOMATIC
    threads: int = 0
    mirroring: bool = False
    entropy: bool = False
    check_input: bool = True
    surfaces: bool = False

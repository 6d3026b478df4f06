"""Which reduced precisions a pack may be run in: those that cost next to no accuracy on its held-out cases."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distillation.evaluation.paired_statistics import or_agreement
from distillation.evaluation.scores import ReducedEngine, Score
from KDSegmentatorLib.engines.loading import load_engine
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine, openvino_devices
from KDSegmentatorLib.engines.self_check import agreement
from KDSegmentatorLib.errors import EngineUnavailableError, ExportError
from KDSegmentatorLib.packs.manifest import ReducedFormat, ReducedPrecision

if TYPE_CHECKING:
    from KDSegmentatorLib.packs.pack import StudentPack

LARGEST_LOSS: dict[ReducedFormat, float] = {"bfloat16": 0.002, "int8": 0.005}
"""How much mean Dice every single label may lose against float32."""

INT8_BODY_NAME = "body.int8.onnx"

_INSTRUCTIONS: dict[ReducedFormat, str] = {"bfloat16": "BF16", "int8": "INT8"}


@dataclass(frozen=True, kw_only=True)
class ReducedResult:
    """A network in a reduced precision, compared with itself in float32.

    Attributes:
        model: its name.
        precision: number format.
        cases: cases that were compared.
        mean_loss: float32's Dice minus this format's, mean over the labels of a case, then over cases.
        label_losses: the same by label value, mean over the cases that have the label in one of the segmentations;
            None if no case has it, so that nothing is known.
        probe_agreement: share of the probe's foreground voxels that keep their label.
        seconds: median wall time of a case.
    """

    model: str
    precision: ReducedFormat
    cases: int
    mean_loss: float
    label_losses: dict[int, float | None]
    probe_agreement: float
    seconds: float

    @property
    def largest_loss(self) -> float:
        """The loss of the label that loses most, of those that a case has."""
        return max(loss for loss in self.label_losses.values() if loss is not None)

    @property
    def accepted(self) -> bool:
        """Whether the format is good enough for the pack: every label was measured, and none loses too much."""
        limit = LARGEST_LOSS[self.precision]
        return all(loss is not None and loss <= limit for loss in self.label_losses.values())

    def to_manifest(self, body: str) -> ReducedPrecision:
        """Return what a pack says about it.

        Args:
            body: name of the network's file.
        """
        return ReducedPrecision(
            precision=self.precision,
            body=body,
            mean_dice_loss=round(self.mean_loss, 6),
            largest_dice_loss=round(self.largest_loss, 6),
            cases=self.cases,
            probe_agreement=round(self.probe_agreement, 6),
        )


def missing_for(precision: ReducedFormat) -> str | None:
    """Return why a precision cannot be measured on this machine; None if it can.

    Asked first, because OpenVINO does not refuse: without the instructions for bfloat16 it takes float32 and does not
    say so, and float32 would pass every comparison with itself.
    """
    try:
        abilities = openvino_devices().get("cpu", frozenset())
    except EngineUnavailableError as error:
        return str(error)
    if _INSTRUCTIONS[precision] not in abilities:
        return f"this processor has no instructions for {precision}; evaluate on one that has them to add it"
    return None


def reduced_engine(
    pack: StudentPack, precision: ReducedFormat, body: bytes, threads: int | None = None
) -> ReducedEngine:
    """Return an engine for a precision that the pack does not have to have been accepted in, tried on the probe.

    Args:
        pack: has a probe.
        precision: number format that this machine has (:func:`missing_for`).
        body: the pack's network in int8, or in float32 for bfloat16: the engine converts it.
        threads: CPU threads; None takes what the machine allows.

    Raises:
        ExportError: the pack has no probe.
        EngineError: OpenVINO does not load or run the network.
        PackError: a file of the pack is damaged.
    """
    probe = pack.probe()
    if probe is None:
        raise ExportError(f"{pack.manifest.id} has no probe to check {precision} with; export it again")
    patch_size = pack.manifest.windows.patch_size
    engine = load_engine(OpenVinoEngine.name, body, patch_size=patch_size, precision=precision, threads=threads)
    return ReducedEngine(
        engine=engine,
        precision=precision,
        body_sha256=hashlib.sha256(body).hexdigest(),
        probe_agreement=float(agreement(engine, probe, pack.head())),
    )


def compare_with_float32(
    model: str, reduced: ReducedEngine, exact: Sequence[Score], approximate: Sequence[Score]
) -> ReducedResult:
    """Return how a reduced precision does on the same cases.

    A label that is in neither segmentation of a case, in either precision, says nothing and is left out. If only one
    precision finds something where nothing is, the other one is right: its Dice counts as 1.

    Args:
        model: name of the network.
        reduced: the engine of the reduced precision.
        exact: scores in float32; at least one is defined.
        approximate: scores in the reduced precision of the same cases and labels.
    """
    found = {(score.case, score.label): score.dice for score in approximate}
    by_label: dict[int, list[float]] = {score.label: [] for score in exact}
    by_case: dict[str, list[float]] = {}
    for score in exact:
        other = found[score.case, score.label]
        if math.isnan(score.dice) and math.isnan(other):
            continue
        loss = or_agreement(score.dice, "dice") - or_agreement(other, "dice")
        by_label[score.label].append(loss)
        by_case.setdefault(score.case, []).append(loss)
    return ReducedResult(
        model=model,
        precision=reduced.precision,
        cases=len(by_case),
        mean_loss=_mean([_mean(losses) for losses in by_case.values()]),
        label_losses={label: _mean(losses) if losses else None for label, losses in sorted(by_label.items())},
        probe_agreement=reduced.probe_agreement,
        seconds=float(np.median([score.seconds for score in approximate])),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

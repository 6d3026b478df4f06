"""Our inference beside stock ``nnUNetPredictor`` with the same weights, case by case, and the page about it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from distillation.dataset import Case
from distillation.teacher import ModelFolder
from kdbench.report.markdown import count, percent, table
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.machine.hardware import processor_name
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.version import __version__

REQUIRED = 0.999
"""Smallest share of the foreground that has to have equal labels."""

_PACKAGES = ("nnunetv2", "torch", "onnxruntime", "numpy", "scipy", "SimpleITK")

Labels = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two segmentations of one scan.

    Attributes:
        foreground: voxels that have a label in either.
        different: voxels whose labels differ; all of them are foreground.
    """

    foreground: int
    different: int

    @classmethod
    def of(cls, ours: Labels, reference: Labels) -> Difference:
        """Compare two label maps on one grid."""
        return cls(
            foreground=int(np.count_nonzero((ours > 0) | (reference > 0))),
            different=int(np.count_nonzero(ours != reference)),
        )

    def __add__(self, other: Difference) -> Difference:
        return Difference(foreground=self.foreground + other.foreground, different=self.different + other.different)

    @property
    def equal(self) -> float:
        """Share of the foreground with equal labels; nothing to compare counts as nothing equal."""
        return 1 - self.different / self.foreground if self.foreground else 0.0


@dataclass(frozen=True, kw_only=True)
class CaseParity:
    """One scan.

    Attributes:
        name: of the case.
        shape: of the array, (z, y, x).
        windows: of the sliding window.
        labels: labels other than background that ours holds.
        stock: against nnU-Net as it is, which adds up its logits in float16.
        float32: against nnU-Net with sums in float32.
    """

    name: str
    shape: tuple[int, ...]
    windows: int
    labels: int
    stock: Difference
    float32: Difference


def compare_cases(
    model: ModelFolder, checkpoint: str, pack: StudentPack, cases: Sequence[Case], say: Callable[[str], None]
) -> Iterator[CaseParity]:
    """Segment cases with a pack through onnxruntime and with stock nnU-Net, and compare.

    Args:
        model: the trained folder.
        checkpoint: its file.
        pack: the same network, exported with float32 storage.
        cases: the scans.
        say: called with a line a case.
    """
    engine = OnnxRuntimeEngine(pack.body())
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(model.folder), (model.fold,), checkpoint)
    for case in cases:
        volume = read_volume(case.image)
        ours = segment(volume, pack, engine, RunOptions(region="given", check_input=False))
        voxels, spacing = volume.voxels[None].astype(np.float32), {"spacing": list(volume.spacing[::-1])}
        found = []
        for sums in (torch.half, torch.float32):
            # torch.half is the type of the predictor's sums, and nothing else uses it while it predicts
            with mock.patch.object(torch, "half", sums):
                reference = predictor.predict_single_npy_array(voxels, dict(spacing))
            found.append(Difference.of(ours.volume.voxels, reference))
        stock, float32 = found
        say(
            f"{case.name}: {stock.foreground:,} foreground voxels, {stock.different} differ, {float32.different} "
            "with float32 sums"
        )
        yield CaseParity(
            name=case.name,
            shape=volume.voxels.shape,
            windows=ours.record.windows,
            labels=len(np.unique(ours.volume.voxels[ours.volume.voxels > 0])),
            stock=stock,
            float32=float32,
        )


def total(cases: Sequence[CaseParity]) -> tuple[Difference, Difference]:
    """Return the sums over cases: against stock, and with float32 sums."""
    nothing = Difference(foreground=0, different=0)
    return sum((case.stock for case in cases), nothing), sum((case.float32 for case in cases), nothing)


def is_equal(cases: Sequence[CaseParity]) -> bool:
    """Return whether enough of the foreground is equal, both ways."""
    return all(difference.equal >= REQUIRED for difference in total(cases))


def section(title: str, about: str, model: ModelFolder, cases: Sequence[CaseParity], day: str) -> str:
    """Return a data set's part of the page, as Markdown.

    Args:
        title: its heading.
        about: what network it is and which cases were taken.
        model: the trained folder.
        cases: the comparison.
        day: of the measurement.
    """
    stock, float32 = total(cases)
    rows = [
        (
            case.name,
            " x ".join(map(str, case.shape)),
            str(case.windows),
            str(case.labels),
            count(case.stock.foreground),
            count(case.stock.different),
            count(case.float32.different),
        )
        for case in cases
    ]
    rows.append(("all", "", "", "", count(stock.foreground), count(stock.different), count(float32.different)))
    header = ("Case", "Voxels (z, y, x)", "Windows", "Labels", "Foreground", "Different", "with float32 sums")
    verdict = "enough" if is_equal(cases) else "too little"
    versions = [f"Python {platform.python_version()}", f"kdsegmentator {__version__}"]
    versions += [f"{package} {metadata.version(package)}" for package in _PACKAGES]
    lines = [
        f"## {title}",
        "",
        about,
        "",
        f"Equal: {percent(stock.equal, 4)} of the foreground against stock nnU-Net (sums in float16), "
        f"{percent(float32.equal, 4)} with its sums in float32. "
        f"At least {percent(REQUIRED, 1)} is asked for: {verdict}.",
        "",
        *table(header, rows),
        "",
        f"Checkpoint {model.sha256[:16]}; {', '.join(versions)}; {processor_name()}, {platform.system()}; {day}.",
    ]
    return "\n".join(lines)


def with_section(page: str, text: str) -> str:
    """Return the page with a section in place of the earlier one of the same heading, or after the others."""
    heading = text.partition("\n")[0]
    parts = page.rstrip().split("\n## ")
    kept = [parts[0], *(f"## {part}" for part in parts[1:])]
    places = [number for number, part in enumerate(kept) if part.partition("\n")[0] == heading]
    kept = [text if number in places else part.rstrip() for number, part in enumerate(kept)]
    return "\n\n".join(kept if places else [*kept, text]) + "\n"

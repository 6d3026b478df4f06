"""Compare our inference with stock ``nnUNetPredictor`` on real scans, with identical weights.

    python Testing/Benchmarks/parity.py hippocampus DATA/Dataset004_Hippocampus --model DATA/teacher_hippocampus
    python Testing/Benchmarks/parity.py head_neck_ct DATA/Dataset201_HeadNeckCT --fit --cases 3

The network goes through the same export as any pack (float32 storage) and through onnxruntime; the same checkpoint goes
through nnU-Net, as it is (sums in float16) and with its sums in float32. Every foreground voxel of either is compared,
and the result becomes a section of docs/parity.md. The exit code is 1 where less than 99.9 % of it is equal.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distillation.dataset import Case, RawDataset, read_dataset
from distillation.export import export_pack
from distillation.recipe_file import read_recipe
from distillation.teacher import load_model_folder
from kdbench.fitted import HEAD_NECK_CT, TRANSPOSE, fit_model
from kdbench.parity import compare_cases, is_equal, section, with_section
from KDSegmentatorLib.io.files import atomic_output

PAGE = Path(__file__).resolve().parents[2] / "docs" / "parity.md"
INTRODUCTION = """\
# Parity with nnU-Net

<!-- Written by Testing/Benchmarks/parity.py; do not edit by hand. -->

The same weights through `KDSegmentatorLib` (onnxruntime, float32) and through stock `nnUNetPredictor`, without
mirroring. *Foreground* are the voxels that have a label in either segmentation. nnU-Net adds up the logits of its
windows in float16: where two labels are closer than that rounds, its result is arbitrary. The last column compares with
nnU-Net's sums in float32.
"""
FITTING_CASES = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, write the section, and return the exit code."""
    options = _parser().parse_args(arguments)
    dataset = read_dataset(options.dataset)
    chosen = _spread(dataset.cases, options.cases)
    recipe = read_recipe(options.recipe)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or _fitted(dataset, chosen, Path(scratch) / "model")
        model = load_model_folder(folder, 0, options.checkpoint)
        pack = export_pack(
            model,
            size="x1",
            teacher=None,
            recipe=recipe.pack,
            dataset=dataset,
            into=Path(scratch) / "packs",
            storage="float32",
            held_out=[case.name for case in chosen],
        ).pack
        cases = list(compare_cases(model, options.checkpoint, pack, chosen, print))
    network = f"The trained network `{folder.name}`, fold 0" if options.model else _about_fit()
    about = f"{network}; {len(cases)} of the {len(dataset.cases)} cases of {dataset.folder.name}, evenly spread."
    day = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    text = section(f"{recipe.pack.title}: {dataset.folder.name}", about, model, cases, day)
    page = options.page.read_text(encoding="utf-8") if options.page.is_file() else INTRODUCTION
    with atomic_output(options.page) as unfinished:
        unfinished.write_text(with_section(page, text), encoding="utf-8", newline="\n")
    print(text)
    return 0 if is_equal(cases) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="what the pack says about itself: a recipe's name or file")
    parser.add_argument("dataset", type=Path, help="dataset in nnU-Net raw layout")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="trained nnU-Net folder, fold 0")
    source.add_argument(
        "--fit", action="store_true", help="no trained network: random body, head fitted to other cases (head-neck CT)"
    )
    parser.add_argument("--cases", type=int, default=10, help="evenly spread over the sorted cases")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the section is written")
    return parser


def _spread(cases: Sequence[Case], number: int) -> list[Case]:
    places = np.linspace(0, len(cases) - 1, min(number, len(cases))).round().astype(int)
    return [cases[place] for place in places]


def _fitted(dataset: RawDataset, compared: Sequence[Case], folder: Path) -> Path:
    others = [case for case in dataset.cases if case not in compared]
    return fit_model(HEAD_NECK_CT, dataset, _spread(others, FITTING_CASES), folder)


def _about_fit() -> str:
    features = " and ".join(map(str, HEAD_NECK_CT.features))
    return (
        f"No trained network: a random body of {features} features, whose head was "
        f"fitted to {FITTING_CASES} other cases by ridge regression (transposed by {TRANSPOSE}, resampled to "
        f"{' x '.join(map(str, HEAD_NECK_CT.spacing))} mm)"
    )


if __name__ == "__main__":
    sys.exit(main())

"""What ``evaluate`` leaves in a workspace, generated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from distillation.evaluation.scores import Score, write_scores
from support.scores import score

MODELS = {"x1 teacher": 0.06, "x1/4 plain": 0.0, "x1/4 logit": 0.03, "x1/4 reco": -0.02}
"""Networks, and by how much each is better than the plain one."""


def rows(seed: int = 0) -> list[Score]:
    random = np.random.default_rng(0)
    base = random.uniform(0.7, 0.85, size=(12, 2))
    noise = np.random.default_rng(seed + 1)
    return [
        score(model=model, pack_hash=f"{model} {seed}", case=f"c{case:02d}", label=label + 1, dice=float(value))
        for model, gain in MODELS.items()
        for case in range(12)
        for label in range(2)
        for value in [base[case, label] + gain + noise.normal(0, 0.003)]
    ]


def workspace(
    folder: Path,
    seed: int = 0,
    task: str = "spheres",
    scores: list[Score] | None = None,
    subjects: Callable[[str], str] = str,
) -> Path:
    """Write what ``evaluate`` leaves."""
    found = rows(seed) if scores is None else scores
    into = folder / "evaluation"
    into.mkdir(parents=True)
    other = [replace(row, pack_hash="an earlier pack", dice=0.1) for row in found[:5]]
    write_scores(into / "scores.csv", [*other, *found])
    content = {
        "dataset": "Generated spheres",
        "split": "twelve cases",
        "subjects": {row.case: subjects(row.case) for row in found},
        "surface": {"tolerance_mm": 1.0, "surface": "voxels"},
        "about": {
            "task": task,
            "title": task.capitalize(),
            "seed": seed,
            "labels": {"1": "Front | left", "2": "Back"},
            "pack_hashes": {row.model: row.pack_hash for row in found},
        },
    }
    (into / "evaluation.json").write_text(json.dumps(content))
    return folder

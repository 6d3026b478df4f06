"""A cohort through Snakemake's local executor: every scan once, one table, and only what is new the second time."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import build_size, write_scan

ROOT = Path(__file__).resolve().parents[3]


def snakemake(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    program = os.environ.get("KDSEG_SNAKEMAKE")
    if not program:
        pytest.skip("needs KDSEG_SNAKEMAKE, the path of a snakemake; .ci/run makes it")
    kdseg = shlex.join([sys.executable, "-m", "KDSegmentatorLib"])
    config = [
        f"scans={folder / 'scans'}",
        f"results={folder / 'results'}",
        "pack=generated",
        "threads=1",
        f"kdseg={kdseg}",
    ]
    return subprocess.run(
        [program, "-s", str(ROOT / "workflow" / "Snakefile"), "--cores", "2", *more, "--config", *config],
        cwd=folder, capture_output=True, encoding="utf-8", timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KDSEGMENTATOR_PACKS": str(folder / "packs"),
             "XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip


def test_a_cohort_becomes_labels_records_and_one_table_and_only_new_scans_are_segmented_again(tmp_path: Path) -> None:
    PackStore(tmp_path / "packs").install(build_size(tmp_path / "built", "x1/4").folder)
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, name in enumerate(("a", "b ü 2")):
        voxels = np.random.default_rng(number).gamma(2, 100, size=(20, 24, 18)).astype(np.float32)
        write_scan(scans / f"{name}.nii.gz", voxels)
    done = snakemake(tmp_path)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results"
    assert {path.name for path in (results / "labels").iterdir()} == {"a.nii.gz", "b ü 2.nii.gz"}
    with (results / "volumes.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert {row["scan"] for row in rows} == {"a", "b ü 2"}
    write_scan(scans / "c.nii.gz")
    planned = snakemake(tmp_path, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    segmented = re.findall(r"^rule segment:", planned.stdout + planned.stderr, re.MULTILINE)
    assert len(segmented) == 1


def said(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode != 0
    return run.stdout + run.stderr


def test_scans_of_one_name_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    assert "holds no scan" in said(snakemake(tmp_path, "--dry-run"))
    for name in ("a.nii.gz", "a.nrrd"):
        (scans / name).touch()
    assert "would both be called a" in said(snakemake(tmp_path, "--dry-run"))

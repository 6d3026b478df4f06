"""What the worker processes call to segment a file: our command, and stock nnU-Net's."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kdbench.results import Measured


def with_kdseg(
    scan: str, output: str, task: str, size: str, engine: str, precision: str, options: Sequence[str] = ()
) -> Measured:
    """Run ``kdseg segment``.

    Args:
        scan: the file to segment.
        output: the label map to write.
        task: of the pack.
        size: of the pack.
        engine: see ``kdseg segment --help``.
        precision: see ``kdseg segment --help``.
        options: further ones of the command.

    Returns:
        Seconds of ``preprocess``, ``windows`` (inside the engine), ``restore`` and ``total`` (of these three), and the
        number of network ``calls``.
    """
    from KDSegmentatorLib.cli.main import main

    record = Path(f"{output}.json")
    wanted = ["--pack", task, "--size", size, "--engine", engine, "--precision", precision, "--device", "cpu"]
    code = main(["segment", scan, output, *wanted, *options, "--record", str(record), "--quiet"])
    if code:
        raise SystemExit(code)  # it has said why
    content = json.loads(record.read_text(encoding="utf-8"))
    return Measured(details={**content["seconds"], "calls": content["calls"]})


def with_nnunet(scan: str, output: str, model: str) -> Measured:
    """Run ``nnUNetv2_predict_from_modelfolder -device cpu --disable_tta``: the paper goes without mirroring too.

    This is ``nnUNetv2_predict`` with the model's folder told. All its other settings are left as they are.

    Args:
        scan: the file to segment.
        output: the label map to write.
        model: the model folder, fold 0.

    Returns:
        Seconds of ``importing`` torch and nnU-Net.
    """
    start = time.perf_counter()
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder

    importing = time.perf_counter() - start
    work = Path(f"{output}.nnunet")
    shutil.rmtree(work, ignore_errors=True)
    (work / "in").mkdir(parents=True)
    shutil.copyfile(scan, work / "in" / "case_0000.nii.gz")
    folders = ["-i", str(work / "in"), "-o", str(work / "out"), "-m", model, "-f", "0"]
    sys.argv = ["nnUNetv2_predict_from_modelfolder", *folders, "-device", "cpu", "--disable_tta"]
    predict_entry_point_modelfolder()
    (work / "out" / "case.nii.gz").replace(output)
    shutil.rmtree(work)
    return Measured(details={"importing": importing})


def compare(first: str, second: str) -> Measured:
    """Return the ``equal`` share of the foreground of two label maps."""
    from kdbench.scans import equal_share
    from KDSegmentatorLib.io.images import read_volume

    one, other = (read_volume(path, allow_constant=True).voxels for path in (first, second))
    return Measured(details={"equal": equal_share(one, other)})

"""The probe: one real window with the labels that the shipped network gives it, for engines to be checked with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from KDSegmentatorLib.engines.head import label_values
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.packs.probe_file import as_stored, write_probe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from distillation.export.samples import Sample
    from KDSegmentatorLib.packs.pack import Head


def write_probe_of(path: Path, samples: Sequence[Sample], *, body: bytes, head: Head, threads: int) -> None:
    """Write the probe's file from the sample that has most to segment.

    The labels are those that onnxruntime gives the window as the file gives it back, in float32.

    Args:
        path: the file to write; it must not exist.
        samples: windows of training cases with one channel.
        body: the float32 body as it is shipped, with the weights as they are stored.
        head: its last layer.
        threads: CPU threads.

    Raises:
        OSError: the file cannot be written.
        EngineError: onnxruntime does not run the body.
    """
    window = max(samples, key=lambda sample: sample.foreground).window[0, 0]
    features = OnnxRuntimeEngine(body, threads=threads).run(as_stored(window), lambda: False)[0]
    write_probe(path, window, label_values(head, features))

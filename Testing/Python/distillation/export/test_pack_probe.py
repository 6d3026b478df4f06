from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.dataset import read_dataset  # noqa: E402
from distillation.export.network import split_network, to_onnx, with_stored_weights  # noqa: E402
from distillation.export.pack_folder import write_probe_of  # noqa: E402
from distillation.export.samples import Sample, sample_windows  # noqa: E402
from distillation.teacher import load_model_folder  # noqa: E402
from KDSegmentatorLib.engines.head import head_logits  # noqa: E402
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine  # noqa: E402
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine  # noqa: E402
from KDSegmentatorLib.engines.self_check import FLOAT32_AGREEMENT, agreement  # noqa: E402
from KDSegmentatorLib.packs.array_files import as_stored, read_probe  # noqa: E402
from KDSegmentatorLib.packs.pack import StudentPack  # noqa: E402

PATCH = (16, 16, 16)


def test_a_packs_probe_is_a_training_window_with_its_own_labels(
    teacher_pack: StudentPack, spheres: Path, tmp_path: Path
) -> None:
    probe = teacher_pack.probe()
    assert probe is not None
    model = load_model_folder(tmp_path / "teacher", 0)
    windows = [as_stored(sample.window[0, 0]) for sample in sample_windows(model, read_dataset(spheres).cases[2:5])]
    assert any(np.array_equal(probe.window, window) for window in windows)
    with torch.inference_mode():
        logits = model.network(torch.from_numpy(probe.window)).numpy()[0]
    assert np.mean(logits.argmax(0) == probe.labels) > 0.995  # but for the rounding of stored weights
    assert set(np.unique(probe.labels)) == {0, 1, 2}


def test_both_engines_agree_with_the_probe_and_a_wrong_one_does_not(teacher_pack: StudentPack) -> None:
    probe = teacher_pack.probe()
    assert probe is not None
    exact = OnnxRuntimeEngine(teacher_pack.body(), threads=1)
    assert agreement(exact, probe, teacher_pack.head()) == 1.0
    openvino = OpenVinoEngine(teacher_pack.body(), patch_size=PATCH, threads=1)
    assert agreement(openvino, probe, teacher_pack.head()) >= FLOAT32_AGREEMENT

    class Wrong:
        name, device, precision = "wrong", "cpu", "float32"

        def run(self, windows: np.ndarray, cancelled: Callable[[], bool]) -> np.ndarray:
            return exact.run(windows, cancelled)[:, ::-1]

    assert agreement(Wrong(), probe, teacher_pack.head()) < 0.9


def test_the_window_with_most_to_segment_is_taken(
    plans: Callable[..., dict[str, Any]], model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    split = split_network(load_model_folder(model_folder(plans()), 0).network)
    body = to_onnx(with_stored_weights(split.body, "float16"), channels=1, patch_size=PATCH, storage="float16")
    random = np.random.default_rng(0)
    windows = [random.normal(size=(1, 1, *PATCH)).astype(np.float32) for _ in range(3)]
    samples = [Sample(window=window, foreground=count) for window, count in zip(windows, (5, 70, 6), strict=True)]
    path = tmp_path / "probe.npz"
    write_probe_of(path, samples, body=body, head=split.head, threads=1)
    probe = read_probe(path.read_bytes(), PATCH, 3, "probe")
    np.testing.assert_array_equal(probe.window, as_stored(windows[1][0, 0]))
    # labels belong to the window as the file gives it back, not to the window before it was rounded
    features = OnnxRuntimeEngine(body, threads=1).run(probe.window, lambda: False)[0]
    np.testing.assert_array_equal(probe.labels, head_logits(split.head, features).argmax(0))

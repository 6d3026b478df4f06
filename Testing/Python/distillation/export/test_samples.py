from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import distillation.export.samples as samples
from distillation.dataset import Case, RawDataset, read_dataset
from distillation.export.samples import calibration_windows, sample_windows
from distillation.export.training_set import training_cases
from distillation.teacher import ModelFolder, load_model_folder
from KDSegmentatorLib.errors import ExportError


@pytest.fixture
def dataset(spheres: Path) -> RawDataset:
    return read_dataset(spheres)


@pytest.fixture
def model(plans: Callable[..., dict[str, Any]], model_folder: Callable[..., Path]) -> ModelFolder:
    return load_model_folder(model_folder(plans()), 0)


def test_held_out_cases_are_no_training_cases(dataset: RawDataset) -> None:
    names = [case.name for case in dataset.cases]
    assert training_cases(dataset, names[:2]) == dataset.cases[2:]
    with pytest.raises(ExportError, match="Dataset901_Spheres has no case that is not held out"):
        training_cases(dataset, names)


def test_calibration_windows_are_those_of_the_network_and_always_the_same(
    model: ModelFolder, dataset: RawDataset
) -> None:
    first, second = (calibration_windows(model, dataset.cases, 8) for _ in range(2))
    assert [window.shape for window in first] == [(1, 1, 16, 16, 16)] * 8
    assert all(window.dtype == np.float32 and window.flags.c_contiguous for window in first)
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
    assert len({window.tobytes() for window in first}) == 8
    assert 0.5 < np.std(first) < 2  # normalised as for the network


class FakeCases:
    """Cases by number, whose images are ten times their labels: one labelled voxel each."""

    SHAPE = (9, 9, 9)

    def __init__(self, count: int, *, labelled: bool = True) -> None:
        self.cases = [Case(name=f"{number}", image=Path(f"{number}"), label=Path("l")) for number in range(count)]
        self.model: Any = SimpleNamespace(configuration={"patch_size": (3, 3, 3)})
        self.labelled = labelled
        self.read: list[int] = []

    def preprocessed(
        self, model: object, cases: Sequence[tuple[Path, Path]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for image, _ in cases:
            number = int(image.name)
            self.read.append(number)
            labels = np.zeros(self.SHAPE, np.int16)
            labels[0] = -1  # nnU-Net's mark for what was cropped away
            if self.labelled:
                labels[tuple(np.random.default_rng(number).integers(1, 9, 3))] = 2
            yield 10 * labels[None].astype(np.float32), labels


@pytest.mark.parametrize("count", [1, 2, 7, 50, 99])
def test_every_second_window_shows_a_label(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    fake = FakeCases(7)
    monkeypatch.setattr(samples, "_preprocessed", fake.preprocessed)
    windows = calibration_windows(fake.model, fake.cases, count)
    assert len(windows) == count
    assert all(window.max() == 20 for window in windows[1::2])
    if count >= 50:
        assert any(window.max() < 20 for window in windows[::2])


def test_windows_of_cases_without_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCases(3, labelled=False)
    monkeypatch.setattr(samples, "_preprocessed", fake.preprocessed)
    assert len(calibration_windows(fake.model, fake.cases, 6)) == 6


@pytest.mark.parametrize(
    ("cases", "count", "read"),
    [(10, 5, [0, 2, 4, 6, 8]), (7, 5, [0, 1, 2, 4, 5]), (3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (4, 1, [0])],
)
def test_windows_are_spread_over_the_cases_and_each_is_read_once(
    monkeypatch: pytest.MonkeyPatch, cases: int, count: int, read: list[int]
) -> None:
    fake = FakeCases(cases)
    monkeypatch.setattr(samples, "_preprocessed", fake.preprocessed)
    assert len(calibration_windows(fake.model, fake.cases, count)) == count
    assert fake.read == read


def test_a_sample_shows_what_is_to_be_segmented(model: ModelFolder, dataset: RawDataset) -> None:
    found = sample_windows(model, dataset.cases[:2])
    assert [sample.window.shape for sample in found] == [(1, 1, 16, 16, 16)] * 2
    for sample in found:
        sphere = 4 / 3 * np.pi * 6.5**3
        assert sample.foreground == pytest.approx(sphere, rel=0.05)  # all of it is inside
        centre, corner = sample.window[0, 0, 6:10, 6:10, 6:10], sample.window[0, 0, :2, :2, :2]
        assert centre.mean() > corner.mean() + 1


def test_a_sample_round_the_labels_and_of_a_case_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    for labelled in (True, False):
        fake = FakeCases(2, labelled=labelled)
        monkeypatch.setattr(samples, "_preprocessed", fake.preprocessed)
        assert [sample.foreground for sample in sample_windows(fake.model, fake.cases)] == [int(labelled)] * 2


def test_images_smaller_than_the_window_are_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCases(1)
    fake.model.configuration["patch_size"] = (12, 9, 4)
    monkeypatch.setattr(samples, "_preprocessed", fake.preprocessed)
    (image, _), *_ = fake.preprocessed(fake.model, [(case.image, case.label) for case in fake.cases])
    for window in (sample_windows(fake.model, fake.cases)[0].window, *calibration_windows(fake.model, fake.cases, 2)):
        assert window.shape == (1, 1, 12, 9, 4)
        inside = window[0, :, 1:10]
        assert not window[0, :, :1].any()
        assert not window[0, :, 10:].any()
        assert any(np.array_equal(inside, image[..., start : start + 4]) for start in range(6))

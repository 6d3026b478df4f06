from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation import training_log  # noqa: E402
from distillation.training_log import (  # noqa: E402
    Epoch,
    LossMeans,
    TimeLeft,
    TrainingLog,
    duration_text,
    read_curves,
)


def epoch(number, **losses):
    return Epoch(
        epoch=number,
        iteration=100 * (number + 1),
        losses=losses or {"segmentation": 0.5, "logit": 0.25},
        validation_loss=-0.5,
        pseudo_dice=0.75,
        learning_rate=0.01,
        seconds=3.5,
    )


def rows(folder):
    with (folder / "training_log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_an_epoch(tmp_path):
    log = TrainingLog(tmp_path, 0)
    log.write(epoch(0))
    log.write(epoch(1))
    log.close()
    assert rows(tmp_path)[1] == {
        "epoch": "1",
        "iteration": "200",
        "loss": "0.75",
        "loss_segmentation": "0.5",
        "loss_logit": "0.25",
        "validation_loss": "-0.5",
        "pseudo_dice": "0.75",
        "learning_rate": "0.01",
        "seconds": "3.5",
    }


def test_a_resumed_training_replaces_what_it_repeats(tmp_path):
    first = TrainingLog(tmp_path, 0)
    for number in range(3):
        first.write(epoch(number))
    resumed = TrainingLog(tmp_path, 2)  # the kill came before the checkpoint of epoch 2
    resumed.write(epoch(2, segmentation=0.125))
    assert [(row["epoch"], row["loss"]) for row in rows(tmp_path)] == [("0", "0.75"), ("1", "0.75"), ("2", "0.125")]


def test_tensorboard_shows_the_same(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TrainingLog(tmp_path, 0)
    log.write(epoch(0))
    log.write(epoch(1))
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = {"loss", "loss/segmentation", "loss/logit", "validation_loss", "pseudo_dice", "learning_rate", "seconds"}
    assert set(events.Tags()["scalars"]) == tags
    assert [(each.step, each.value) for each in events.Scalars("loss/logit")] == [(0, 0.25), (1, 0.25)]


def test_without_tensorboard_there_is_the_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(training_log, "_summary_writer", lambda *_: None)
    log = TrainingLog(tmp_path, 0)
    log.write(epoch(0))
    log.close()
    assert len(rows(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["training_log.csv"]


def test_means_over_iterations():
    means = LossMeans()
    means.add({"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(0.0)})
    means.add({"a": torch.tensor(2.0), "b": torch.tensor(4.0)})
    assert {name: value.item() for name, value in means.means().items()} == {"a": 1.5, "b": 2.0}
    assert not means.means()["a"].requires_grad


def test_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(training_log.time, "monotonic", lambda: now[0])
    left = TimeLeft(4)
    now[0] += 10
    assert left.after_epoch() == pytest.approx(30)
    now[0] += 20
    assert left.after_epoch() == pytest.approx(30)  # two more at 15 s
    now[0] += 15
    left.after_epoch()
    assert left.after_epoch() == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5000, "83 min"), (11100, "3 h 05 min")]
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_rows_of_an_epoch_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "training_log.csv").write_text(
        "epoch,iteration,loss,logit,learning_rate,seconds\n0,1,2.0,0.5,0.01,3\n0,2,1.0,,0.01,4\n1,3,0.5,0.25,0.005,5\n"
    )
    log = read_curves(tmp_path)
    assert log is not None
    assert log.epochs == (0, 1)
    assert log.curves == {"loss": (1.5, 0.5), "logit": (0.5, 0.25)}
    assert log.seconds == (7, 5)


@pytest.mark.parametrize("text", ["", "epoch,loss\n", "epoch,loss,seconds\nx,1,1\n", "other\n1\n"])
def test_an_unreadable_table_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "training_log.csv").write_text(text)
    assert read_curves(tmp_path) is None


def test_a_checkpoint_remembers(tmp_path: Path) -> None:
    logging = {
        "train_losses": [np.float32(1.5), np.float32(1.0)],
        "val_losses": [np.float32(1.25)],
        "mean_fg_dice": [np.float64(0.5), np.float64(0.75)],
        "epoch_start_timestamps": [10.0, 20.0],
        "epoch_end_timestamps": [15.0, 24.0],
    }
    torch.save({"network_weights": {}, "logging": logging}, tmp_path / "checkpoint_latest.pth")
    log = read_curves(tmp_path)
    assert log is not None
    assert log.curves["loss"] == (1.5, 1.0)
    assert log.curves["pseudo_dice"] == (0.5, 0.75)
    assert log.curves["validation_loss"][0] == 1.25
    assert math.isnan(log.curves["validation_loss"][1])
    assert log.seconds == (5, 4)
    assert read_curves(tmp_path / "nowhere") is None

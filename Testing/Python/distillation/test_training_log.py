import csv

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation import training_log  # noqa: E402
from distillation.training_log import Epoch, LossMeans, TimeLeft, TrainingLog, duration_text  # noqa: E402


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

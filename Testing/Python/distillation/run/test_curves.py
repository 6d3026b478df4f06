from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.run.curves import read_curves  # noqa: E402


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

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs.array_file import write_arrays
from KDSegmentatorLib.packs.probe_file import as_stored, read_probe, write_probe

PATCH = (4, 5, 6)
WINDOW = np.random.default_rng(0).normal(size=PATCH).astype(np.float32)
LABELS = (np.arange(120) % 3).astype(np.uint8).reshape(PATCH)


def test_what_is_read_is_what_the_labels_were_made_for(tmp_path: Path) -> None:
    write_probe(tmp_path / "probe.npz", WINDOW, LABELS)
    probe = read_probe((tmp_path / "probe.npz").read_bytes(), PATCH, 3, "p")
    assert probe.window.shape == (1, 1, *PATCH)
    assert np.array_equal(probe.window, as_stored(WINDOW))
    assert np.array_equal(probe.labels, LABELS)
    assert np.abs(probe.window[0, 0] - WINDOW).max() <= (WINDOW.max() - WINDOW.min()) / 255 * 0.51


def test_the_same_probe_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_probe(tmp_path / name, WINDOW, LABELS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_constant_window_is_kept(tmp_path: Path) -> None:
    assert np.array_equal(as_stored(np.full(PATCH, 0.7, np.float32))[0, 0], np.full(PATCH, 0.7, np.float32))


def test_a_probe_has_to_fit_the_pack(tmp_path: Path) -> None:
    write_probe(tmp_path / "probe.npz", WINDOW, LABELS)
    content = (tmp_path / "probe.npz").read_bytes()
    with pytest.raises(PackError, match=r"p: levels has the shape \(4, 5, 6\); the manifest needs \(4, 5, 7\)"):
        read_probe(content, (4, 5, 7), 3, "p")
    with pytest.raises(PackError, match="the probe has the label 2, the pack has 1"):
        read_probe(content, PATCH, 2, "p")
    write_arrays(
        tmp_path / "nan.npz",
        {"levels": LABELS, "limits": np.array([0, np.nan], np.float32), "labels": LABELS},
        compressed=True,
    )
    with pytest.raises(PackError, match="limits has values that are not finite"):
        read_probe((tmp_path / "nan.npz").read_bytes(), PATCH, 3, "p")
    with pytest.raises(PackError, match="not a readable npz"):
        read_probe(content[:-30], PATCH, 3, "p")

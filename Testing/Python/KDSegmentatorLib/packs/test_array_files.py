from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs import array_files
from KDSegmentatorLib.packs.array_files import as_stored, read_head, read_probe, write_arrays, write_head, write_probe

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
BIAS = np.array([1, 2, 3], dtype=np.float32)


def saved(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(**contents: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array: np.ndarray[Any, Any], allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ">f4"])
def test_arrays_come_back_in_float32(dtype: Any) -> None:
    weight, bias = read_head(saved(weight=WEIGHT.astype(dtype), bias=BIAS.astype(dtype)), 3, 4, "h")
    assert weight.dtype == bias.dtype == np.float32
    assert np.array_equal(weight, WEIGHT)
    assert np.array_equal(bias, BIAS)


def test_compressed_and_fortran_order() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, weight=np.asfortranarray(WEIGHT), bias=BIAS)
    weight, _ = read_head(buffer.getvalue(), 3, 4, "h")
    assert np.array_equal(weight, WEIGHT)
    assert weight.flags.c_contiguous


def test_writing_is_reproducible_and_readable(tmp_path: Path) -> None:
    write_head(tmp_path / "a.npz", WEIGHT, BIAS.astype(np.float16))
    write_head(tmp_path / "b.npz", np.asfortranarray(WEIGHT), BIAS.astype(np.float16))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["weight"], WEIGHT)
    with pytest.raises(FileExistsError):
        write_head(tmp_path / "a.npz", WEIGHT, BIAS)
    with pytest.raises(PackError, match="not finite"):
        write_head(tmp_path / "c.npz", WEIGHT * np.nan, BIAS)
    with pytest.raises(PackError, match="two axes"):
        write_head(tmp_path / "c.npz", WEIGHT.reshape(3, 4, 1, 1, 1), BIAS)
    assert not (tmp_path / "c.npz").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable npz"),
        (b"PK\x03\x04", "not a readable npz"),
        (saved(weight=WEIGHT), "must hold the arrays"),
        (saved(weight=WEIGHT, bias=BIAS, more=BIAS), "must hold the arrays"),
        (saved(weight=WEIGHT.T, bias=BIAS), r"weight has the shape \(4, 3\); .* needs \(3, 4\)"),
        (saved(weight=WEIGHT, bias=BIAS[:2]), r"bias has the shape \(2,\)"),
        (saved(weight=WEIGHT, bias=BIAS * np.inf), "not finite"),
        (saved(weight=WEIGHT.astype(float), bias=BIAS), "is of type float64"),
        (saved(weight=WEIGHT, bias=BIAS.astype(int)), "is of type int64"),
        (zipped(weight=npy(WEIGHT), bias=npy(np.array([1, 2, None]), allow_pickle=True)), "is of type object"),
        (zipped(weight=npy(WEIGHT), bias=npy(BIAS)[:-1]), "does not have 12 bytes of data"),
        (zipped(weight=npy(WEIGHT), bias=npy(BIAS) + b"x"), "does not have 12 bytes of data"),
        (zipped(weight=npy(WEIGHT), bias=b"not npy"), "not a readable npz"),
        (zipped(weight=npy(WEIGHT), bias=b"\x93NUMPY\x01\x00\x05\x00junk"), "not a readable npz"),
        (zipped(weight=npy(WEIGHT), bias=b"\x93NUMPY\x02\x00" + bytes(200)), "version 1.0"),
    ],
)  # fmt: skip
def test_other_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(PackError, match=f"^h.*{message}"):
        read_head(content, 3, 4, "h")


def test_a_header_that_promises_too_much_allocates_nothing() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    huge = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(PackError, match="has the shape"):
        read_head(zipped(weight=npy(WEIGHT), bias=huge), 3, 4, "h")


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "MAXIMUM_ARRAY_BYTES", 1 << 20)
    with pytest.raises(PackError, match=r"bias is larger than 1,048,576 bytes"):
        read_head(zipped(weight=npy(WEIGHT), bias=bytes(2 << 20)), 3, 4, "h")
    monkeypatch.setattr(array_files, "MAXIMUM_HEAD_BYTES", 100)
    with pytest.raises(PackError, match="more than 100"):
        read_head(saved(weight=WEIGHT, bias=BIAS), 3, 4, "h")


@settings(deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(saved(weight=WEIGHT, bias=BIAS))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        weight, bias = read_head(bytes(content), 3, 4, "h")
    except PackError:
        return
    assert weight.shape == (3, 4)
    assert bias.shape == (3,)


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

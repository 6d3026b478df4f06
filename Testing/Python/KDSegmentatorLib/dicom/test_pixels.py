from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from KDSegmentatorLib.dicom import decoding
from KDSegmentatorLib.dicom.series import read_series
from KDSegmentatorLib.errors import ImageReadError, MissingPackageError
from KDSegmentatorLib.geometry import Volume
from support.dicom_series import write_series


def rewrite(files: list[Path], change: Callable[[Any], object], **options: Any) -> None:
    for file in files:
        image = pydicom.dcmread(file)
        change(image)
        image.save_as(file, enforce_file_format=True, **options)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_images_have_the_values_of_plain_ones(tmp_path: Path, volume: Volume, syntax: Any) -> None:
    files = write_series(volume, tmp_path)
    rewrite(files, lambda image: image.compress(syntax, generate_instance_uid=False))
    assert np.array_equal(read_series(tmp_path).volume.voxels, volume.voxels)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_plain_form_has_the_same_values(tmp_path: Path, volume: Volume, syntax: Any) -> None:
    def converted(image: Any) -> None:
        image.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            image.PixelData = np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()

    files = write_series(volume, tmp_path)
    for file in files:
        image = pydicom.dcmread(file)
        converted(image)
        if syntax == DeflatedExplicitVRLittleEndian:
            image.save_as(file, enforce_file_format=True)
            continue
        plain = {"implicit_vr": syntax == ImplicitVRLittleEndian, "little_endian": syntax != ExplicitVRBigEndian}
        pydicom.dcmwrite(file, image, force_encoding=True, **plain)
    assert np.array_equal(read_series(tmp_path).volume.voxels, volume.voxels)


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, volume: Volume) -> None:
    files = write_series(volume, tmp_path)

    def inflated(image: Any) -> None:
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        image.add_new(0x00111010, "OB", bytes(80 << 20))
        image.add_new(0x00110010, "LO", "bomb")

    rewrite(files[:1], inflated)
    assert files[0].stat().st_size < 1 << 20
    with pytest.raises(ImageReadError, match=r"0\.dcm: .* as a zip bomb does"):
        read_series(tmp_path)


def test_each_image_has_its_own_slope_and_whole_values_stay_whole(tmp_path: Path) -> None:
    volume = Volume(np.arange(24, dtype=np.int16).reshape(4, 2, 3), (1.0, 1.0, 3.0))

    def rescaled(image: Any, k: int) -> None:
        image.RescaleSlope, image.RescaleIntercept = (1 + k, -1000) if k < 3 else (factor, 5)

    for factor, dtype in ((4, np.int16), (0.25, np.float32), (50_000, np.float32)):
        write_series(volume, tmp_path, edit=rescaled)
        expected = (
            volume.voxels * np.array([1, 2, 3, factor])[:, None, None] + np.array([-1000] * 3 + [5])[:, None, None]
        )
        read = read_series(tmp_path).volume.voxels
        assert read.dtype == dtype
        assert np.array_equal(read, expected)


def test_a_modality_table_is_applied(tmp_path: Path) -> None:
    def with_table(image: Any, k: int) -> None:
        table = pydicom.Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [24, 0, 16], "HU"
        table.add_new("LUTData", "US", [2 * value + 7 for value in range(24)])
        image.ModalityLUTSequence = [table]
        del image.RescaleSlope, image.RescaleIntercept

    volume = Volume(np.arange(24, dtype=np.int16).reshape(4, 2, 3), (1.0, 1.0, 3.0))
    write_series(volume, tmp_path, edit=with_table)
    assert np.array_equal(read_series(tmp_path).volume.voxels, 2 * volume.voxels + 7)


def test_overlay_bits_above_the_stored_ones_are_no_intensities(tmp_path: Path, volume: Volume) -> None:
    def twelve_bits(image: Any, k: int) -> None:
        image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, 0
        values = np.frombuffer(image.PixelData, "<i2").astype(np.uint16) & 0x0FFF
        image.PixelData = (values | 0x8000).tobytes()

    write_series(volume, tmp_path, edit=twelve_bits)
    assert np.array_equal(read_series(tmp_path).volume.voxels, volume.voxels.astype(np.uint16) & 0x0FFF)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: setattr(image, "PixelData", image.PixelData[:40]), "pixels of 2.dcm.*truncated or damaged"),
        (lambda image: image.__delattr__("PixelData"), "pixels of 2.dcm.*missing"),
        (lambda image: setattr(image, "PhotometricInterpretation", "MONOCHROME1"), "2.dcm is MONOCHROME1.*inverted"),
        (lambda image: setattr(image, "PhotometricInterpretation", "RGB"), r"2.dcm is in colour \(RGB\)"),
        (lambda image: setattr(image, "RescaleSlope", "1e39"), r"2.dcm has values that no scanner gives"),
    ],
    ids=["truncated", "no pixels", "MONOCHROME1", "colour", "slope"],
)
def test_images_that_are_no_measurements_are_refused(
    tmp_path: Path, volume: Volume, change: Callable[[Any], object], message: str
) -> None:
    write_series(volume, tmp_path, edit=lambda image, k: change(image) if k == 2 else None)
    with pytest.raises(ImageReadError, match=message):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("MEMORY_BYTES", 20 << 20, "memory"), ("SECONDS_AN_IMAGE", 0.001, r"more than 0\.001 s")],
)
def test_decoding_has_a_limit_of_memory_and_time(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch, name: str, value: float, message: str
) -> None:
    files = write_series(volume, tmp_path)
    rewrite(files, lambda image: image.compress(RLELossless, generate_instance_uid=False))
    monkeypatch.setattr(decoding, name, value)
    with pytest.raises(ImageReadError, match=rf"cannot read the pixels of 0\.dcm: .*{message}"):
        read_series(tmp_path)


def test_a_decoder_that_crashes_takes_nothing_with_it(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_series(volume, tmp_path)
    rewrite(files, lambda image: image.compress(RLELossless, generate_instance_uid=False))
    (tmp_path / "sitecustomize.py").write_text("import faulthandler; faulthandler._sigsegv()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ImageReadError, match=r"pixels of 0\.dcm: .*the decoder crashed"):
        read_series(tmp_path)


def test_damaged_compressed_pixels_are_named(tmp_path: Path, volume: Volume) -> None:
    files = write_series(volume, tmp_path)
    rewrite(files, lambda image: image.compress(JPEGLSLossless, generate_instance_uid=False))
    rewrite(files[3:4], lambda image: setattr(image, "PixelData", image.PixelData[:30] + bytes(20)))
    with pytest.raises(ImageReadError, match=r"pixels of 3\.dcm"):
        read_series(tmp_path)


def test_a_missing_decoder_is_named_with_what_to_install(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_series(volume, tmp_path)
    rewrite(files, lambda image: image.compress(JPEGLSLossless, generate_instance_uid=False))
    from pydicom.pixels.decoders.base import get_decoder

    monkeypatch.setattr(get_decoder(JPEGLSLossless), "_available", {})
    with pytest.raises(MissingPackageError, match=r"JPEG-LS Lossless.*pip install 'kdsegmentator\[dicom-codecs\]'"):
        read_series(tmp_path)

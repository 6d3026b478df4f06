from __future__ import annotations

import random
import shutil
import zipfile
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from KDSegmentatorLib.dicom.series import find_series, read_series
from KDSegmentatorLib.errors import GeometryError, ImageReadError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume, matrix
from support.dicom_series import write_series

SIGNED_ORDERS = [
    np.array(
        [[sign if patient == axis else 0 for axis, sign in zip(order, signs, strict=True)] for patient in range(3)]
    )
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


def itk_volume(folder: Path) -> Volume:
    """Return the only series of a folder as ITK, with GDCM, orders and reads it."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    return Volume(
        SimpleITK.GetArrayFromImage(image), image.GetSpacing(), image.GetOrigin(), matrix(image.GetDirection())
    )


def test_all_48_orders_are_read_as_itk_reads_them_also_oblique(tmp_path: Path) -> None:
    random_ = np.random.default_rng(1)
    for number, order in enumerate(SIGNED_ORDERS):
        folder = tmp_path / str(number)
        folder.mkdir()
        angles = random_.uniform(-40, 40, size=3) * (number // 3 % 2)
        direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ order
        voxels = random_.integers(-1000, 2000, size=(3, 4, 5), dtype=np.int16)
        written = Volume(voxels, (0.7, 0.9, 2.5), (-11.5, 20.25, 7.0), matrix(np.round(direction, 9)))
        files = write_series(written, folder)

        series = read_series(random.Random(number).sample(files, len(files)))

        expected = itk_volume(folder)
        assert series.volume.same_grid(expected)
        assert np.array_equal(series.volume.voxels, expected.voxels)
        assert series.volume.reoriented("LPS").same_grid(written.reoriented("LPS"))
        assert np.array_equal(series.volume.reoriented("LPS").voxels, written.reoriented("LPS").voxels)
        numbers = [int(header.InstanceNumber) for header in series.datasets]
        assert numbers == ([1, 2, 3] if np.linalg.det(direction) > 0 else [3, 2, 1])


def test_a_series_comes_from_a_folder_an_archive_a_file_or_files(tmp_path: Path, volume: Volume) -> None:
    deep = tmp_path / "study" / "series"
    deep.mkdir(parents=True)
    files = write_series(volume, deep)
    (tmp_path / "study" / "report.txt").write_text("no DICOM file")
    (deep / "empty").touch()
    shutil.copy(files[3], tmp_path / "study" / "copy of one.dcm")
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        for file in [*files, tmp_path / "study" / "report.txt"]:
            content.write(file, f"somewhere/../../{file.name}")

    read = [read_series(source) for source in (tmp_path / "study", archive, files[3], str(deep), files)]

    for series in read:
        assert np.array_equal(series.volume.voxels, volume.voxels)
        assert series.sha256 == read[0].sha256
        assert "PixelData" not in series.datasets[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study", "study.zip"]


def test_one_of_several_series_is_named_and_never_mixed(tmp_path: Path, volume: Volume) -> None:
    for number in (12, 3):
        (tmp_path / str(number)).mkdir()

        def name(image: Any, k: int, number: int = number) -> None:
            image.SeriesNumber, image.SeriesDescription = number, f"kind\n{number}"

        write_series(volume.with_voxels(volume.voxels + np.int16(number)), tmp_path / str(number), edit=name)

    found = find_series(tmp_path)
    assert [series.title for series in found] == ['3 "kind 3" (CT, 9 images)', '12 "kind 12" (CT, 9 images)']
    assert found[0].files == tuple(f"3/{k}.dcm" for k in range(9))
    with pytest.raises(InvalidSettingsError, match=r'there are 2 series: 3 "kind 3".*--series'):
        read_series(tmp_path)
    with pytest.raises(InvalidSettingsError, match=r"there is no series '4'; there are: 3 "):
        read_series(tmp_path, series="4")
    for choice in ("12", "kind 12", found[1].uid):
        assert np.array_equal(read_series(tmp_path, series=choice).volume.voxels, volume.voxels + 12)


def test_labels_beside_their_scan_are_no_second_series_and_alone_are_refused(tmp_path: Path, volume: Volume) -> None:
    def as_labels(image: Any, k: int) -> None:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
        image.Modality = "SEG"

    (tmp_path / "seg").mkdir()
    write_series(volume, tmp_path / "seg", edit=as_labels)
    with pytest.raises(ImageReadError, match=r"nothing to segment.*\(SEG, 9 images\).*Segmentation, not a CT"):
        read_series(tmp_path)
    write_series(volume, tmp_path)
    assert read_series(tmp_path).modality == "CT"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, r"no DICOM file in the folder .*\(it is empty\)"),
        (lambda folder: (folder / "a.txt").write_text("text"), r"none of its 1 files has DICOM's prefix"),
        (lambda folder: (folder / "a.dcm").write_bytes(bytes(128) + b"DICM\1\2\3"), r"nothing to segment|damaged"),
    ],
)
def test_a_folder_without_a_scan_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path)
    with pytest.raises(ImageReadError, match=message):
        read_series(tmp_path)


def test_a_folder_of_very_many_images_is_refused_before_they_are_read(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(volume, tmp_path)
    monkeypatch.setattr("KDSegmentatorLib.dicom.sources.MAXIMUM_FILES", 8)
    with pytest.raises(ImageReadError, match=r"more than 8 DICOM files.*folder of one series"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 144", "Жюль^Давид"),
        ("no such set", "Doe^Jane"),
    ],
)
def test_names_in_any_character_set_do_no_harm(tmp_path: Path, volume: Volume, charset: Any, name: str) -> None:
    def named(image: Any, k: int) -> None:
        image.SpecificCharacterSet = charset
        image.PatientName = name
        image.SeriesDescription = "T1" if charset == "no such set" else name[:6]

    write_series(volume, tmp_path, edit=named)
    series = read_series(tmp_path)
    assert np.array_equal(series.volume.voxels, volume.voxels)
    assert series.description == ("T1" if charset == "no such set" else name[:6])


def test_a_series_whose_uids_were_anonymised_away_is_read(tmp_path: Path, volume: Volume) -> None:
    def anonymised(image: Any, k: int) -> None:
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            image[keyword].value = ""
        image.PatientName = image.SeriesNumber = None

    write_series(volume, tmp_path, edit=anonymised)
    series = read_series(tmp_path)
    assert np.array_equal(series.volume.voxels, volume.voxels)
    assert (series.uid, series.study_uid) == ("", "")
    assert len({header.SOPInstanceUID for header in series.datasets}) == 9


def test_labels_of_another_grid_are_not_taken_for_those_of_the_images(tmp_path: Path, volume: Volume) -> None:
    write_series(volume, tmp_path)
    series = read_series(tmp_path)
    assert series.on_images(series.volume) is series.volume.voxels
    with pytest.raises(GeometryError, match="do not lie on the grid of the series"):
        series.on_images(Volume(volume.voxels, (1.0, 1.0, 1.0)))


def test_reading_can_be_stopped(tmp_path: Path, volume: Volume) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    write_series(volume, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        read_series(tmp_path, check=stop)


@settings(max_examples=40, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(132, 1500), st.integers(0, 255) | st.just(-1)), min_size=1, max_size=6))
@example(changes=[(300, -1), (301, -1), (302, -1)])
def test_damaged_bytes_end_in_a_named_error_or_a_series(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    files = write_series(Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), (1.0, 1.0, 1.0)), folder)
    content = bytearray(files[0].read_bytes())
    for place, value in changes:
        place = min(place, len(content) - 1)
        content[place : place + 1] = b"" if value < 0 else bytes([value])
    files[0].write_bytes(content)
    try:
        assert read_series(folder).volume.size == (4, 3, 2)
    except (ImageReadError, GeometryError, InvalidSettingsError) as error:
        assert str(error)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("SeriesNumber", ""),
        ("RescaleSlope", r"0\.dcm has a damaged Rescale Slope"),
        ("PhotometricInterpretation", r"0\.dcm is in colour \(unknown\)"),
        ("Rows", r"0\.dcm has no image"),
    ],
)
def test_a_value_of_an_unknown_kind_is_named(tmp_path: Path, volume: Volume, keyword: str, message: str) -> None:
    files = write_series(volume, tmp_path)
    content = bytearray(files[0].read_bytes())
    number = pydicom.datadict.tag_for_keyword(keyword)
    assert number is not None
    at = content.index((number >> 16).to_bytes(2, "little") + (number & 0xFFFF).to_bytes(2, "little"))
    content[at + 4 : at + 6] = b"Q?"
    files[0].write_bytes(content)
    if keyword == "SeriesNumber":
        assert read_series(tmp_path).volume.size == volume.size, "a number that is only shown does no harm"
        return
    with pytest.raises(ImageReadError, match=message):
        read_series(tmp_path)

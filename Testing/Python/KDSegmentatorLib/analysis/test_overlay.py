"""Where things are in the picture: no test compares pictures, all look for coloured boxes where anatomy says."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from KDSegmentatorLib.analysis.overlay import draw_overlay, write_overlay
from KDSegmentatorLib.analysis.planes import planes
from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import Volume
from support.labels import label

RED, GREEN = (255, 0, 0), (0, 255, 0)
LABELS = (label(1, "Left posterior superior", RED), label(2, "Small", GREEN))
ORDERS = ["".join(letters) for axes in permutations(("LR", "PA", "SI")) for letters in product(*axes)]
SHAPE = (16, 40, 48)  # (S, P, L) voxels, 48 x 40 x 48 mm
SPACING = (1.0, 1.0, 3.0)


def boxes(*, with_labels: bool = True) -> tuple[Volume, Volume]:
    """Return an LPS scan with a bright box at the patient's left, back and top, and its segmentation.

    A small second label makes everything of the scan lie within the context that is shown.
    """
    labels = np.zeros(SHAPE, dtype=np.uint8)
    if with_labels:
        labels[7:9, 14:18, 12:16] = 2
        labels[11:15, 30:38, 36:46] = 1
    image = np.full(SHAPE, 100, dtype=np.int16)
    image[labels == 1] = 400
    image[0, 0, 0] = 0
    return Volume(image, SPACING), Volume(labels, SPACING)


def panels(picture: Image.Image) -> list[npt.NDArray[np.uint8]]:
    """Return the three panels (rows, columns, RGB), found as what is not background between title and legend."""
    pixels = np.asarray(picture)
    background = pixels[0, 0]
    rows = slice(120, 121 + 500)
    line = (pixels[rows] != background).any(axis=2)
    filled = line.mean(axis=0) > 0.5
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled.astype(int), [0]])))
    found = []
    for left, right in zip(edges[::2], edges[1::2], strict=True):
        column = np.flatnonzero((pixels[115:, (left + right) // 2 + 40] != background).any(axis=1)) + 115
        stop = np.flatnonzero(np.diff(column) > 1)
        bottom = column[stop[0]] if stop.size else column[-1]
        found.append(pixels[column[0] : bottom + 1, left:right])
    return found


def place(panel: npt.NDArray[np.uint8], color: tuple[int, int, int]) -> tuple[float, float, float, float]:
    """Return (top, bottom, left, right) of what is coloured, as fractions of the panel."""
    strongest = int(np.argmax(color))
    others = [channel for channel in range(3) if channel != strongest]
    # the letters of the directions are yellow: neither much more red than green nor the reverse
    hit = (panel[..., strongest].astype(int) - panel[..., others].max(axis=2)) > 60
    rows, columns = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
    height, width = hit.shape
    return rows[0] / height, (rows[-1] + 1) / height, columns[0] / width, (columns[-1] + 1) / width


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    image, segmentation = boxes()
    return draw_overlay(image, segmentation, LABELS, title="Test", modality="MR")


def test_left_is_right_back_is_below_and_top_is_above(picture: Image.Image) -> None:
    axial, coronal, sagittal = panels(picture)
    # of the box: P 30..38 of 40 from the top, L 36..46 of 48 from the left, S 11..15 of 16 from the bottom
    assert place(axial, RED) == pytest.approx((30 / 40, 38 / 40, 36 / 48, 46 / 48), abs=0.02)
    assert place(coronal, RED) == pytest.approx((1 / 16, 5 / 16, 36 / 48, 46 / 48), abs=0.02)
    assert place(sagittal, RED) == pytest.approx((1 / 16, 5 / 16, 30 / 40, 38 / 40), abs=0.02)


def test_voxels_keep_their_true_proportions(picture: Image.Image) -> None:
    axial, coronal, sagittal = panels(picture)
    scale = axial.shape[1] / 48
    assert axial.shape[0] / scale == pytest.approx(40, abs=0.2)
    assert (coronal.shape[0] / scale, coronal.shape[1] / scale) == pytest.approx((48, 48), abs=0.2)
    assert (sagittal.shape[0] / scale, sagittal.shape[1] / scale) == pytest.approx((48, 40), abs=0.2)


@pytest.mark.parametrize("codes", ORDERS)
def test_any_axis_order_shows_the_same_planes(codes: str) -> None:
    image, segmentation = boxes()
    expected = planes(image, segmentation)
    for before, after in zip(expected, planes(image.reoriented(codes), segmentation.reoriented(codes)), strict=True):
        np.testing.assert_array_equal(after.labels, before.labels)
        np.testing.assert_array_equal(after.intensities, before.intensities)
        assert (after.pixel_size, after.edges, after.position) == (before.pixel_size, before.edges, before.position)


@pytest.mark.parametrize("codes", ["RAS", "SAR", "PIR", "ILA"])
def test_any_axis_order_gives_the_same_picture(codes: str, picture: Image.Image) -> None:
    image, segmentation = boxes()
    turned = draw_overlay(image.reoriented(codes), segmentation.reoriented(codes), LABELS, title="Test", modality="MR")
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(picture))


def test_a_scan_that_is_stored_mirrored_is_another_picture(picture: Image.Image) -> None:
    """Without this, the test above could not fail."""
    image, segmentation = boxes()
    mirrored = [volume.with_voxels(np.ascontiguousarray(volume.voxels[:, :, ::-1])) for volume in (image, segmentation)]
    wrong = draw_overlay(*mirrored, LABELS, title="Test", modality="MR")
    left, right = place(panels(wrong)[0], RED)[2:]
    assert (left, right) == pytest.approx((2 / 48, 12 / 48), abs=0.02)


def test_planes_go_through_most_of_the_labels_and_say_where() -> None:
    axial, coronal, sagittal = planes(*boxes())
    for plane in (axial, coronal, sagittal):
        assert np.count_nonzero(plane.labels == 1) > 0
    assert axial.edges == ("R", "L", "A", "P")
    assert coronal.edges == ("R", "L", "S", "I")
    assert sagittal.edges == ("A", "P", "S", "I")
    assert (axial.position, coronal.position, sagittal.position) == ("33.0 mm S", "30.0 mm P", "36.0 mm L")


def test_positions_on_the_other_side_are_named_so() -> None:
    image, segmentation = boxes()
    moved = [Volume(volume.voxels, volume.spacing, (-100.0, -100.0, -100.0)) for volume in (image, segmentation)]
    assert [plane.position for plane in planes(*moved)] == ["67.0 mm I", "70.0 mm A", "64.0 mm R"]


def test_small_labels_in_a_large_scan_are_shown_close() -> None:
    labels = np.zeros((200, 200, 200), dtype=np.uint8)
    labels[100:110, 20:30, 150:160] = 1
    image = Volume(np.zeros(labels.shape, dtype=np.int16), (1.0, 1.0, 1.0))
    axial, coronal, _ = planes(image, image.with_voxels(labels))
    assert axial.extent == (50, 50)  # 20 mm on every side of 10 mm
    assert coronal.extent == (50, 50)


def test_nothing_found_shows_the_middle_of_the_scan() -> None:
    image, segmentation = boxes(with_labels=False)
    axial, _, _ = planes(image, segmentation)
    assert axial.extent == (40, 48)
    picture = draw_overlay(image, segmentation, LABELS, title="Test", modality="CT")
    assert len(panels(picture)) == 3


def test_mr_window_follows_what_is_shown(picture: Image.Image) -> None:
    """Tissue at 100 is the darkest of what is shown, the box at 400 the brightest."""
    axial = panels(picture)[0]
    assert axial[axial.shape[0] // 4, axial.shape[1] // 4].max() == 0
    inside = axial[round(axial.shape[0] * 34 / 40), round(axial.shape[1] * 41 / 48)]
    assert inside[0] == 255
    assert inside[1] == pytest.approx(0.62 * 255, abs=2)


def test_ct_window_is_fixed() -> None:
    """Fat at -100 HU is dark but not black, air is black, bone is white."""
    voxels = np.full((20, 20, 20), -1000, dtype=np.int16)
    voxels[:, :, 7:14] = 40
    voxels[:, :, 14:] = 900
    image = Volume(voxels, (2.0, 2.0, 2.0))
    segmentation = image.with_voxels(np.zeros(voxels.shape, dtype=np.uint8))
    axial = panels(draw_overlay(image, segmentation, LABELS, title="Test", modality="CT"))[0]
    row = axial[axial.shape[0] // 4]
    assert row[row.shape[0] // 8].max() == 0
    assert int(row[row.shape[0] // 2][0]) == pytest.approx(127, abs=2)
    assert row[-row.shape[0] // 8].min() == 255


def test_many_labels_long_names_and_constant_images_are_drawn() -> None:
    image, segmentation = boxes()
    many = [label(value, f"Überlanger Name eines Areals der Hirnrinde {value}") for value in range(1, 112)]
    constant = image.with_voxels(np.zeros(image.voxels.shape, dtype=np.uint8))
    picture = draw_overlay(constant, segmentation, many, title="T" * 500, modality="MR")
    assert picture.width < 1600


def test_thin_volumes_are_drawn() -> None:
    labels = np.zeros((1, 30, 300), dtype=np.uint8)
    labels[0, 10:20, 100:200] = 1
    image = Volume(np.arange(labels.size, dtype=np.float32).reshape(labels.shape), (1.0, 1.0, 0.5))
    assert draw_overlay(image, image.with_voxels(labels), LABELS, title="Test", modality="MR").height > 100


def test_another_grid_is_refused() -> None:
    image, segmentation = boxes()
    with pytest.raises(GeometryError, match="grid"):
        draw_overlay(Volume(image.voxels, (1.0, 1.0, 2.0)), segmentation, LABELS, title="Test", modality="MR")


def test_png_file(tmp_path: Path, picture: Image.Image) -> None:
    image, segmentation = boxes()
    path = tmp_path / "overlay.png"
    write_overlay(image, segmentation, LABELS, path, title="Test", modality="MR")
    with Image.open(path) as written:
        assert written.format == "PNG"
        np.testing.assert_array_equal(np.asarray(written), np.asarray(picture))
    assert list(tmp_path.iterdir()) == [path]

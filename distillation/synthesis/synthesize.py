"""Made images with their truth: one, and a whole dataset of them in nnU-Net's raw layout."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distillation.splits import grouped
from distillation.synthesis.deformation import Deformation, random_deformation
from distillation.synthesis.intensities import (
    Acquisition,
    blurred,
    random_acquisition,
    random_contrast,
    t1_contrast,
    with_bias,
    with_gamma,
    with_noise,
)
from distillation.synthesis.label_maps import TABLE_NAME, read_head, read_label_table
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.resampling import resample_image, resampled_shape, separate_axis
from KDSegmentatorLib.io.files import file_sha256, write_json
from KDSegmentatorLib.io.images import image_suffix, write_volume
from KDSegmentatorLib.packs.manifest import Resampling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distillation.recipe import Recipe
    from distillation.synthesis.label_maps import Head, LabelTable
    from distillation.synthesis.synthesis_recipe import SynthesisRecipe


BRAIN = 1
"""The only label."""

_RAS_IN_LPS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
_NNUNETS_OWN = Resampling(order=3, order_z=0)
_FULL_SCALE = 1000.0
_STRIPPING_MM = (-1.0, 3.0)
_BLACK_AIR = 0.5


@dataclass(frozen=True, kw_only=True)
class MadeImage:
    """An image and its label map (0, or ``BRAIN``) on one grid, int16 and uint8, RAS, isotropic."""

    image: Volume
    truth: Volume


def make_image(head: Head, table: LabelTable, settings: SynthesisRecipe, rng: np.random.Generator) -> MadeImage:
    """Make an image of a head: deform, paint, distort, acquire, and resample as a pack does with a scan.

    The last step is that of inference, with nnU-Net's rules for thick slices, so that the network learns from images
    that look as they will: it gives an image a whole number of voxels, which the field of view is divided into.
    Their true size differs from ``settings.spacing`` by less than half a voxel in the whole image, for image and truth
    alike; the header says ``settings.spacing``.

    Args:
        head: the label map.
        table: its meaning.
        settings: how often what happens.
        rng: random numbers; the same give the same image.
    """
    deformation = random_deformation(rng)
    acquisition = random_acquisition(
        rng, head, deformation, thick_slices=settings.thick_slices, cropped=settings.cropped
    )
    acquired = _acquired(head, table, settings, rng, deformation, acquisition)
    wanted = (settings.spacing,) * 3
    shape = resampled_shape(acquisition.shape, acquisition.spacing, wanted)
    apart = separate_axis(_NNUNETS_OWN, acquisition.spacing, wanted)
    image = resample_image(acquired, shape, _NNUNETS_OWN, apart)
    truth = deformation.distance(head, acquisition.axes(shape)) < 0
    origin = (0.0, 0.0, 0.0)
    return MadeImage(
        image=Volume(_as_int16(image), wanted, origin, _RAS_IN_LPS),
        truth=Volume(truth.astype(np.uint8) * np.uint8(BRAIN), wanted, origin, _RAS_IN_LPS),
    )


def _acquired(
    head: Head,
    table: LabelTable,
    settings: SynthesisRecipe,
    rng: np.random.Generator,
    deformation: Deformation,
    acquisition: Acquisition,
) -> npt.NDArray[np.float32]:
    """Return the image on the acquisition's grid."""
    axes = acquisition.simulated_axes
    classes = deformation.classes(head, axes)
    contrast = (random_contrast if rng.random() < settings.random_contrast else t1_contrast)(rng, table)
    image = contrast.paint(rng, classes, acquisition)
    image = blurred(rng, image, acquisition)
    image = with_gamma(rng, image)
    image = with_bias(rng, image, acquisition)
    kept = None
    if rng.random() < settings.skull_stripped:
        kept = deformation.distance(head, axes) < rng.uniform(*_STRIPPING_MM)
    elif rng.random() < _BLACK_AIR:
        kept = classes > 0
    acquired = with_noise(rng, acquisition.average(image))
    if kept is not None:
        acquired[acquisition.average(kept.astype(np.float32)) < 0.5] = 0
    return acquired


def _as_int16(image: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Return the image with its brightest thousandth at 1000, in whole numbers, as scanners store it."""
    white = max(float(np.percentile(image, 99.9)), 1e-3)
    scaled = np.rint(image * (_FULL_SCALE / white))
    return np.asarray(np.clip(scaled, 0, 2 * _FULL_SCALE), dtype=np.int16)


RECORD_NAME = "synthesis.json"
"""Beside ``dataset.json``: generator, settings and label maps that the images were made with."""

GENERATOR_VERSION = 1
"""Stands for all of the code that makes images and their truth. Raise it with every change to the numbers or rules in
this package that are not in the recipe: what counts as brain (``CLOSING_MM``, ``OPENING_MM``, ``SMOOTHING_MM`` and
``BETWEEN`` in ``brain_mask.py``), and the ranges that contrast, deformation, acquisition and artefacts are drawn from.
The settings and label maps of the record do not show such a change, and a dataset that goes on after it would hold two
truths."""

VERSION_FIELD = "generator_version"

CHANNEL = "T1w"
_ENDING = ".nii.gz"


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """A label map's file, and the names of the images to be made of it."""

    path: Path
    cases: tuple[str, ...]


def synthesize(
    recipe: Recipe, label_maps: Path, raw: Path, count: int, progress: Callable[[int, int], None] = lambda *_: None
) -> Path:
    """Make a recipe's dataset, or what is missing of it.

    The images are shared out evenly among the label maps. Each depends on the recipe's seed, its label map and its
    number only, so that a dataset that was broken off, or is wanted larger, goes on as if it had been made at once.

    Args:
        recipe: with a section ``synthesis``, and one label, the brain.
        label_maps: folder of label maps of whole heads with their ``labels.json``.
        raw: folder for the dataset, made if it does not exist.
        count: number of images.
        progress: called with the images that are there and their number, at the start and after each.

    Returns:
        The dataset's folder.

    Raises:
        InvalidSettingsError: the recipe has no such section, its labels or groups do not fit, or the count does not
            reach for an image of every label map.
        TrainingError: there are no label maps, one cannot be used, or the folder holds a dataset made in another way.
        ImageWriteError: no space or no permission.
    """
    settings = recipe.synthesis
    if settings is None:
        raise InvalidSettingsError("the recipe has no section 'synthesis': its dataset is collected, not made")
    if len(recipe.pack.labels) != 1:
        raise InvalidSettingsError(
            f"images are made with one label, the brain, but the recipe's pack has {len(recipe.pack.labels)}"
        )
    maps = find_label_maps(label_maps, count)
    _check_groups(recipe, maps)
    table = read_label_table(label_maps)
    folder = raw / recipe.dataset.name
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    record = {
        VERSION_FIELD: GENERATOR_VERSION,
        "settings": asdict(settings),
        "table_sha256": file_sha256(label_maps / TABLE_NAME),
        "label_maps_sha256": {each.path.name: file_sha256(each.path) for each in maps},
    }
    _check_record(folder, record)
    total = sum(len(each.cases) for each in maps)
    done = sum(_is_there(folder, case) for each in maps for case in each.cases)
    progress(done, total)
    for each in maps:
        missing = [(n, case) for n, case in enumerate(each.cases) if not _is_there(folder, case)]
        if not missing:
            continue
        head = read_head(each.path, table)
        for number, case in missing:
            made = make_image(head, table, settings, _random_numbers(settings, head.name, number))
            write_volume(made.image, folder / "imagesTr" / f"{case}_0000{_ENDING}")
            write_volume(made.truth, folder / "labelsTr" / f"{case}{_ENDING}")
            done += 1
            progress(done, total)
    _describe(folder, recipe.pack.labels[0].name)
    return folder


def find_label_maps(folder: Path, count: int) -> list[LabelMap]:
    """Return the label maps of a folder, sorted by name, and what to make of each.

    Raises:
        InvalidSettingsError: the count does not reach for an image of each.
        TrainingError: there is none, or two differ only in their suffix.
    """
    if not folder.is_dir():
        raise TrainingError(f"there is no folder {folder}; give the folder of the label maps")
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = image_suffix(path)
        if suffix is None or not path.is_file():
            continue
        name = path.name[: -len(suffix)]
        if name in paths:
            raise TrainingError(f"{paths[name]} and {path} have one name; keep one of them")
        paths[name] = path
    if not paths:
        raise TrainingError(f"{folder} holds no label map (.nii.gz, .nrrd, ...)")
    names = list(paths)
    if count < len(names):
        raise InvalidSettingsError(
            f"{folder} holds {len(names)} label maps, so that at least {len(names)} images are needed, got {count}"
        )
    return [
        LabelMap(path=paths[name], cases=tuple(f"{name}_{n:04d}" for n in range(len(range(start, count, len(names))))))
        for start, name in enumerate(names)
    ]


def _check_groups(recipe: Recipe, maps: list[LabelMap]) -> None:
    """Check that the recipe keeps all images of a head in one fold."""
    names = [case for each in maps for case in each.cases]
    unit_of = {name: unit for unit in grouped(names, recipe.dataset.groups) for name in unit}
    for each in maps:
        if not set(each.cases) <= set(unit_of[each.cases[0]]):
            stem = each.cases[0].rpartition("_")[0]
            raise InvalidSettingsError(
                f"the recipe's groups do not keep the images of {each.path.name} in one fold; add [{stem}_*] to them"
            )


def _check_record(folder: Path, record: dict[str, Any]) -> None:
    path = folder / RECORD_NAME
    if path.is_file():
        try:
            # of the first version, which did not write it
            before = {VERSION_FIELD: 1, **json.loads(path.read_text(encoding="utf-8"))}
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(f"{path} cannot be read ({error}); remove {folder} and start again") from error
        if before[VERSION_FIELD] != record[VERSION_FIELD]:
            raise TrainingError(
                f"{folder} was begun by version {before[VERSION_FIELD]} of the code that makes images, this is version "
                f"{record[VERSION_FIELD]}, which makes others; remove it, or make the new one elsewhere"
            )
        if before != record:
            raise TrainingError(
                f"{folder} was made with other settings or label maps; remove it, or make the new one elsewhere"
            )
        return
    if any((folder / "imagesTr").iterdir()):
        raise TrainingError(f"{folder} holds images that were not made by this command; give another folder with --raw")
    write_json(path, record)


def _is_there(folder: Path, case: str) -> bool:
    # the label map is written last
    return (folder / "labelsTr" / f"{case}{_ENDING}").is_file() and (
        folder / "imagesTr" / f"{case}_0000{_ENDING}"
    ).is_file()


def _random_numbers(settings: SynthesisRecipe, name: str, number: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, zlib.crc32(name.encode()), number])


def _describe(folder: Path, label: str) -> None:
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": CHANNEL},
            "labels": {"background": 0, label: BRAIN},
            "numTraining": sum(path.name.endswith(_ENDING) for path in (folder / "labelsTr").iterdir()),
            "file_ending": _ENDING,
        },
    )

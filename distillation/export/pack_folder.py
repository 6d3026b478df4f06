"""Trained folder to pack folder, which appears whole and verified or not at all."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from distillation.dataset import RawDataset, check_grids
from distillation.export.description import (
    check_labels,
    checked_alpha,
    describe_preprocessing,
    describe_provenance,
    describe_windows,
)
from distillation.export.network import (
    OPSET,
    Agreement,
    Storage,
    check_agreement,
    fold_count,
    split_network,
    to_onnx,
    with_stored_weights,
)
from distillation.export.samples import sample_windows
from distillation.export.training_set import (
    describe_expected,
    describe_field_of_view,
    joined_expected,
    joined_field_of_view,
    training_cases,
    turned_field_of_view,
)
from distillation.network_cost import network_cost
from KDSegmentatorLib.engines.head import label_values
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.io.files import atomic_folder
from KDSegmentatorLib.packs.array_files import as_stored, write_head, write_probe
from KDSegmentatorLib.packs.manifest import SCHEMA_VERSION, Manifest, Network
from KDSegmentatorLib.packs.manifest_file import write_manifest
from KDSegmentatorLib.packs.names import MANIFEST_NAME, pack_id
from KDSegmentatorLib.packs.pack import StudentPack, describe_file, open_pack, verify_pack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from distillation.export.samples import Sample
    from distillation.recipe import PackRecipe
    from distillation.teacher import ModelFolder
    from KDSegmentatorLib.packs.manifest import Evaluation, Expected, FieldOfView, Preprocessing, ReducedPrecision
    from KDSegmentatorLib.packs.pack import Head

BODY_NAME = "body.onnx"
HEAD_NAME = "head.npz"
PROBE_NAME = "probe.npz"
SAMPLE_CASES = 3
"""Real cases on which every export is compared with torch; one of them gives the probe."""


@dataclass(frozen=True, kw_only=True)
class ExportedPack:
    """A written pack and how well it agrees with torch."""

    pack: StudentPack
    agreement: Agreement


def export_pack(
    model: ModelFolder,
    *,
    size: str,
    teacher: ModelFolder | None,
    recipe: PackRecipe,
    dataset: RawDataset,
    into: Path,
    storage: Storage = "float16",
    held_out: Collection[str] = (),
    started_from: Manifest | None = None,
) -> ExportedPack:
    """Export a network that was trained here as a pack; nothing is written unless it gives torch's logits.

    Args:
        model: the trained folder.
        size: ``x1`` (the teacher), ``x1/2``, ...
        teacher: the family's teacher; None if ``model`` is the teacher.
        recipe: what the pack says about itself.
        dataset: the dataset it was trained on: axis order, field of view, volumes of the structures, cases for the
            comparison and the probe are taken from it.
        into: folder that will hold the pack's folder, named by its id; an earlier one of this name is replaced.
        storage: number format of the kernels in the file; computations are in float32 either way.
        held_out: names of cases that are left for the evaluation.
        started_from: manifest of the pack that training started from: the network knows its training images as well.

    Raises:
        ExportError: the network, its plans or its labels do not fit, or the exported logits differ from torch's.
        TrainingError: the dataset's images are stored in several axis orders.
    """
    check_labels(recipe.labels, model)
    alpha = checked_alpha(model, teacher, size)
    preprocessing = describe_preprocessing(model, check_grids(dataset))
    cases = training_cases(dataset, held_out)

    def training_set() -> tuple[FieldOfView | None, Expected | None]:
        field_of_view = describe_field_of_view(cases, preprocessing.axis_codes)
        expected = describe_expected(cases, recipe.labels)
        if started_from is None:
            return field_of_view, expected
        before = turned_field_of_view(started_from, preprocessing.axis_codes)
        return joined_field_of_view(before, field_of_view), joined_expected(started_from.expected, expected)

    return write_pack(
        model,
        size=size,
        alpha=alpha,
        teacher=teacher,
        recipe=recipe,
        preprocessing=preprocessing,
        samples=lambda: sample_windows(model, cases[:SAMPLE_CASES]),
        training_set=training_set,
        into=into,
        storage=storage,
    )


def write_pack(
    model: ModelFolder,
    *,
    size: str,
    alpha: float,
    teacher: ModelFolder | None,
    recipe: PackRecipe,
    preprocessing: Preprocessing,
    samples: Callable[[], Sequence[Sample]],
    training_set: Callable[[], tuple[FieldOfView | None, Expected | None]],
    into: Path,
    storage: Storage,
) -> ExportedPack:
    """Write a network as a pack, compared with torch before.

    Args:
        model: the trained folder.
        size: ``x1`` (the teacher), ``x1/2``, ...
        alpha: the size's factor of the teacher's widths.
        teacher: the family's teacher; None if ``model`` is the teacher.
        recipe: what the pack says about itself.
        preprocessing: how a volume becomes the network's input.
        samples: gives the windows that the comparison and the probe are made of, at least one.
        training_set: gives what the images and the segmentations look like that it was trained on, as far as known.
        into: folder that will hold the pack's folder, named by its id; an earlier one of this name is replaced.
        storage: number format of the kernels in the file.

    Raises:
        ExportError: the network cannot be split or exported, or the exported logits differ from torch's.
    """
    windows = describe_windows(model)
    channels = len(model.dataset["channel_names"])
    split, folds = split_network(model.network), fold_count(model.network)
    stored_body = with_stored_weights(split.body, storage)
    body = to_onnx(stored_body, channels=channels, patch_size=windows.patch_size, storage=storage)
    compared = samples()
    agreement = check_agreement(
        body,
        stored_body=stored_body,
        split=split,
        network=model.network,
        windows=[sample.window for sample in compared],
    )
    cost = network_cost(model.configuration, channels=channels, labels=len(model.dataset["labels"]))
    field_of_view, expected = training_set()
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        id=pack_id(recipe.task, size),
        version=recipe.version,
        task=recipe.task,
        title=recipe.title,
        size=size,
        modality=recipe.modality,
        body_part=recipe.body_part,
        labels=recipe.labels,
        preprocessing=preprocessing,
        field_of_view=field_of_view,
        expected=expected,
        region=recipe.region,
        single_pieces=recipe.single_pieces,
        recommended=size == recipe.recommended,
        windows=windows,
        network=Network(
            architecture=model.configuration["architecture"]["network_class_name"].rpartition(".")[2],
            alpha=alpha,
            parameters=folds * cost.parameters,
            flops_per_window=folds * cost.flops,
            features=split.head_weight.shape[1],
            body=BODY_NAME,
            opset=OPSET,
            head=HEAD_NAME,
            probe=PROBE_NAME,
            reduced_precisions=(),
        ),
        evaluation=None,
        provenance=describe_provenance(model, teacher),
        data=recipe.data,
        weights=recipe.weights,
        intended_use=recipe.intended_use,
        limits=recipe.limits,
        files={},
    )
    folder = into / manifest.id
    with new_pack_folder(folder) as temporary:
        (temporary / BODY_NAME).write_bytes(body)
        write_head(temporary / HEAD_NAME, split.head_weight, split.head_bias)
        threads = torch.get_num_threads()
        write_probe_of(temporary / PROBE_NAME, compared, body=body, head=split.head, threads=threads)
        files = {name: describe_file(temporary / name) for name in (BODY_NAME, HEAD_NAME, PROBE_NAME)}
        text = write_manifest(replace(manifest, files=files))
        (temporary / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="\n")
    return ExportedPack(pack=open_pack(folder), agreement=agreement)


@contextmanager
def new_pack_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write a pack into; at the end it is verified and takes the place of ``folder``.

    See :func:`~KDSegmentatorLib.io.files.atomic_folder` for what a failure or a kill leaves.

    Raises:
        PackError: the pack does not pass :func:`KDSegmentatorLib.packs.pack.verify_pack`.
        ManifestError: its manifest is not valid.
        ExportError: the disk is full or not writable.
    """
    try:
        with atomic_folder(folder) as temporary:
            yield temporary
            verify_pack(open_pack(temporary))
    except OSError as error:
        raise ExportError(f"cannot write the pack {folder}: {error}; free some space or export elsewhere") from error


def copy_pack(pack: StudentPack, into: Path) -> StudentPack:
    """Copy a pack into a folder of packs; an earlier one of the same id there is replaced.

    Raises:
        PackError: the pack is damaged.
        ExportError: the disk is full or not writable.
    """
    target = into / pack.manifest.id
    with new_pack_folder(target) as temporary:
        for name in (MANIFEST_NAME, *pack.manifest.files):
            shutil.copyfile(pack.folder / name, temporary / name)
    return open_pack(target)


def with_evaluation(
    pack: StudentPack,
    evaluation: Evaluation,
    reduced: Sequence[ReducedPrecision] | None = None,
    bodies: Mapping[str, bytes] | None = None,
) -> StudentPack:
    """Write into a pack what was measured; bodies that no reduced precision uses any more are removed.

    Args:
        pack: the pack.
        evaluation: its accuracy.
        reduced: the reduced precisions that are good enough; None leaves them as they are.
        bodies: file name to content of the networks among them that the pack does not have yet, or has otherwise.

    Raises:
        ManifestError: what was measured does not fit the pack.
        PackError: the pack is damaged, or a network is not one that a pack may hold.
        ExportError: the disk is full or not writable.
    """
    bodies = bodies or {}
    before = pack.manifest.network
    network = before if reduced is None else dataclasses.replace(before, reduced_precisions=tuple(reduced))
    used = {network.body, *(each.body for each in network.reduced_precisions)}
    dropped = {each.body for each in before.reduced_precisions} - used
    kept = [name for name in pack.manifest.files if name not in dropped and name not in bodies]
    with new_pack_folder(pack.folder) as temporary:
        for name in kept:
            shutil.copyfile(pack.folder / name, temporary / name)
        for name, body in bodies.items():
            (temporary / name).write_bytes(body)
        files = {name: pack.manifest.files[name] for name in kept}
        files |= {name: describe_file(temporary / name) for name in bodies}
        manifest = dataclasses.replace(pack.manifest, network=network, evaluation=evaluation, files=files)
        (temporary / MANIFEST_NAME).write_text(write_manifest(manifest), encoding="utf-8", newline="\n")
    return open_pack(pack.folder)


def write_probe_of(path: Path, samples: Sequence[Sample], *, body: bytes, head: Head, threads: int) -> None:
    """Write the probe's file from the sample that has most to segment.

    The labels are those that onnxruntime gives the window as the file gives it back, in float32.

    Args:
        path: the file to write; it must not exist.
        samples: windows of training cases with one channel.
        body: the float32 body as it is shipped, with the weights as they are stored.
        head: its last layer.
        threads: CPU threads.

    Raises:
        OSError: the file cannot be written.
        EngineError: onnxruntime does not run the body.
    """
    window = max(samples, key=lambda sample: sample.foreground).window[0, 0]
    features = OnnxRuntimeEngine(body, threads=threads).run(as_stored(window), lambda: False)[0]
    write_probe(path, window, label_values(head, features))

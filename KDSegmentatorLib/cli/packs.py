"""``kdseg packs``: which students are on this computer, what they are, and how they come and go."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from KDSegmentatorLib.cli.terminal import table
from KDSegmentatorLib.packs.catalogue import Family, families
from KDSegmentatorLib.packs.field_of_view import field_of_view_text
from KDSegmentatorLib.packs.manifest import Code, Credit, Evaluation, Interval, Manifest, Terminology
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.regions import dependents, region_problem, region_text
from KDSegmentatorLib.packs.store import PackStore

_WIDTH = 100


def run(arguments: argparse.Namespace) -> None:
    """Do what ``kdseg packs ACTION`` asks for.

    Raises:
        PackError: the pack is missing or damaged, or cannot be installed or removed.
        ManifestError: a pack's manifest is not valid.
    """
    store = PackStore()
    action = arguments.action
    if action == "list":
        packs, all_damaged = store.all_packs()
        print(_json([_summary(pack) for pack in packs]) if arguments.json else listing(families(packs)))
        for damaged in all_damaged:
            print(f"kdseg: {damaged.id} cannot be used: {damaged.error}", file=sys.stderr)
        _report_chains(packs, store)
    elif action == "show":
        pack = store.get(arguments.id)
        print(_json(_everything(pack)) if arguments.json else card(pack))
        _report_chains([pack], store)
    elif action == "install":
        pack = store.install(arguments.path)
        print(f"Installed {pack.manifest.id} {pack.manifest.version} in {pack.folder}")
        _report_chains([pack, *dependents(pack.manifest.id, store.packs())], store)
    elif action == "remove":
        store.remove(arguments.id)
        print(f"Removed {arguments.id}")
        _report_chains(dependents(arguments.id, store.packs()), store)
    elif action == "verify":
        pack = store.verify(arguments.id)
        print(f"{pack.manifest.id} {pack.manifest.version} is intact ({len(pack.manifest.files)} files)")
        _report_chains([pack], store)
    else:
        pack = store.roll_back(arguments.id)
        print(f"{pack.manifest.id} is back at version {pack.manifest.version}")
        _report_chains([pack, *dependents(pack.manifest.id, store.packs())], store)


def _report_chains(packs: Sequence[StudentPack], store: PackStore) -> None:
    """Say which packs cannot be run because the pack of their earlier stage cannot."""
    for pack in packs:
        problem = region_problem(pack, store.find)
        if problem is not None:
            print(f"kdseg: {problem}", file=sys.stderr)


def listing(known: Sequence[Family]) -> str:
    """Return a table of the packs, by task and from the largest size down."""
    if not known:
        return "No pack is installed. Install one with 'kdseg packs install PATH'."
    rows = [("Task", "Size", "ID", "Version", "Dice", "n", "Parameters", "Weights' licence", "Runs after", "Title")]
    for family in known:
        for pack in family.packs:
            manifest = pack.manifest
            dice, cases = _accuracy(manifest.evaluation)
            rows.append(
                (
                    family.task,
                    manifest.size,
                    manifest.id,
                    manifest.version,
                    dice,
                    cases,
                    _count(manifest.network.parameters),
                    manifest.weights.license,
                    "-" if manifest.region is None else manifest.region.pack,
                    manifest.title,
                )
            )
    return table(rows, numbers=[4, 5, 6])


def card(pack: StudentPack) -> str:
    """Return all that a pack says about itself, for people."""
    manifest = pack.manifest
    network, evaluation = manifest.network, manifest.evaluation
    scores = {} if evaluation is None else {score.value: _interval(score.dice) for score in evaluation.labels}
    label_rows = [("Value", "Label", "Colour", "Code", "Dice (95 % CI)")]
    for label in manifest.labels:
        color = "#{:02x}{:02x}{:02x}".format(*label.color)
        score = scores.get(label.value, "-")
        label_rows.append((str(label.value), label.name, color, _codes(label.terminology), score))
    preprocessing, windows = manifest.preprocessing, manifest.windows
    patch = " x ".join(str(length) for length in windows.patch_size)
    mirroring = "mirroring possible" if windows.mirroring_axes else "no mirroring"
    data = f"spacing {_numbers(preprocessing.spacing)} mm, axes {preprocessing.axis_codes}"
    cost = f"{network.parameters:,} parameters, {network.flops_per_window / 1e9:.3g} GFLOP a window"
    megabytes = sum(record.size for record in manifest.files.values()) / 1e6
    files = [(name, f"{file.size:,} bytes", f"sha256 {file.sha256}") for name, file in manifest.files.items()]
    facts = [
        ("Task", f"{manifest.task}, size {manifest.size} (alpha {network.alpha:g})"),
        ("For", f"{manifest.modality}, {manifest.body_part}"),
        ("Network", f"{network.architecture}, {cost}, opset {network.opset}"),
        ("Input", f"{data}, {preprocessing.normalization.scheme} normalisation"),
        ("Trained on", f"images of {field_of_view_text(manifest) or 'unknown size'}"),
        *_region_facts(manifest),
        ("Windows", f"{patch} voxels, step {windows.step_fraction:g}, {mirroring}"),
        ("Folder", f"{pack.folder} ({megabytes:.1f} MB)"),
        ("Manifest", f"sha256 {pack.manifest_sha256}"),
    ]
    parts = [
        f"{manifest.title}\n{manifest.id} {manifest.version}",
        table(facts),
        "Labels\n" + textwrap.indent(table(label_rows, numbers=[0]), "  "),
        "Accuracy\n" + textwrap.indent(_evaluation(evaluation), "  "),
        "Provenance\n" + textwrap.indent(_provenance(manifest), "  "),
        _paragraph("Intended use", manifest.intended_use),
        _paragraph("Limits", manifest.limits),
        _credit("Licence of the data", manifest.data),
        _credit("Licence of the weights", manifest.weights),
        "Files\n" + textwrap.indent(table(files, numbers=[1]), "  "),
    ]
    return "\n\n".join(parts)


def _region_facts(manifest: Manifest) -> list[tuple[str, str]]:
    region = manifest.region
    if region is None:
        return []
    margin = f", with {region.margin_mm:g} mm round it" if region.margin_mm else ""
    return [("Runs after", f"{region_text(manifest)}, on what that finds{margin}")]


def _evaluation(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "not measured"
    mirroring = "with mirroring" if evaluation.mirroring else "without mirroring"
    facts = [
        ("Mean Dice", _interval(evaluation.mean_dice) + " (95 % CI)"),
        *_surface_facts(evaluation),
        ("Data", f"{evaluation.dataset}, {evaluation.split}, n = {evaluation.cases}, {mirroring}"),
    ]
    teacher = evaluation.teacher_mean_dice
    if teacher:
        reached = f"{evaluation.mean_dice.mean / teacher:.1%}"
        facts.append(("Teacher", f"{teacher:.4f} on the same cases; this pack reaches {reached} of it"))
    return table(facts)


def _surface_facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return surface Dice and HD95, which packs of earlier versions do not have."""
    facts = []
    if evaluation.mean_nsd is not None:
        patches = "" if evaluation.nsd_surface == "voxels" else ", sub-voxel"
        title = f"Mean NSD at {evaluation.nsd_tolerance_mm:g} mm{patches}"
        facts.append((title, _interval(evaluation.mean_nsd)))
    if evaluation.mean_hd95_mm is not None:
        found = evaluation.mean_hd95_mm
        facts.append(("Mean HD95", f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f}) mm"))
    return facts


def _provenance(manifest: Manifest) -> str:
    provenance = manifest.provenance
    settings = [
        ("temperature", provenance.temperature),
        ("weight", provenance.weight),
        ("seed", provenance.seed),
        ("iterations", provenance.iterations),
    ]
    known = ", ".join(f"{name} {value}" for name, value in settings if value is not None)
    facts = [
        ("Method", ", ".join(part for part in (provenance.method, known) if part)),
        ("Created", provenance.created),
        ("Checkpoint", f"sha256 {provenance.checkpoint_sha256}"),
    ]
    if provenance.teacher_sha256:
        facts.append(("Teacher", f"sha256 {provenance.teacher_sha256}"))
    for loss, values in (provenance.losses or {}).items():
        facts.append((f"Loss {loss}", ", ".join(f"{name} {value}" for name, value in values.items())))
    facts.append(("Made with", ", ".join(f"{name} {version}" for name, version in provenance.versions.items()) or "-"))
    return table(facts)


def _paragraph(heading: str, text: str) -> str:
    lines = [textwrap.fill(line, _WIDTH - 2) for line in text.splitlines()]
    return f"{heading}\n" + textwrap.indent("\n".join(lines), "  ")


def _credit(heading: str, credit: Credit) -> str:
    return _paragraph(heading, f"{credit.license}\n{credit.text}")


def _codes(terminology: Terminology) -> str:
    parts: tuple[Code | None, ...] = (terminology.type, terminology.type_modifier)
    return ", ".join(f'{code.scheme} {code.value} "{code.meaning}"' for code in parts if code is not None)


def _accuracy(evaluation: Evaluation | None) -> tuple[str, str]:
    if evaluation is None:
        return "-", "-"
    return f"{evaluation.mean_dice.mean:.4f}", str(evaluation.cases)


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M"


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _summary(pack: StudentPack) -> dict[str, Any]:
    """Return what the list shows, for programs."""
    manifest = pack.manifest
    evaluation = manifest.evaluation
    return {
        "id": manifest.id,
        "task": manifest.task,
        "size": manifest.size,
        "version": manifest.version,
        "title": manifest.title,
        "modality": manifest.modality,
        "body_part": manifest.body_part,
        "mean_dice": None if evaluation is None else evaluation.mean_dice.mean,
        "cases": None if evaluation is None else evaluation.cases,
        "parameters": manifest.network.parameters,
        "licence": manifest.weights.license,
        "region": None if manifest.region is None else dataclasses.asdict(manifest.region),
        "folder": str(pack.folder),
    }


def _everything(pack: StudentPack) -> dict[str, Any]:
    """Return the manifest, where the pack lies, and the manifest's hash, for programs."""
    return {
        "folder": str(pack.folder),
        "manifest_sha256": pack.manifest_sha256,
        "manifest": dataclasses.asdict(pack.manifest),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)

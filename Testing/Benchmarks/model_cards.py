"""The page docs/models.md: what was trained on what, how accurate it is, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.manifest import Evaluation, Interval, LabelScore, Provenance
from KDSegmentatorLib.packs.pack import StudentPack

CONTINUED_SEED_OFFSET = 1000
"""What a student that goes on from its warm-up adds to its recipe's seed: that of :mod:`distillation.students`."""

_EXPORT = " (export)"

_ROOT = Path(__file__).resolve().parents[2]
_PICTURES = _ROOT / "KDSegmentator" / "Resources" / "Tasks"


def overview(packs: Sequence[StudentPack]) -> str:
    """Return the table of all families for README.md, with links to their cards."""
    return _overview(packs, root="", page="docs/models.md")


def model_cards(packs: Sequence[StudentPack]) -> str:
    """Return a table of all families and one Markdown section each, from the packs' manifests alone."""
    return "\n\n".join([_overview(packs, root="../", page=""), *(_card(family.packs) for family in families(packs))])


def _overview(packs: Sequence[StudentPack], *, root: str, page: str) -> str:
    """Return one line a family; ``root`` leads to the repository and ``page`` to the cards from where it is read."""
    rows = ["| | Task | Modality | Structures | Sizes, with mean Dice | Weights |", "|---|---|---|---:|---|---|"]
    for family in families(packs):
        first = family.packs[0].manifest
        sizes = [f"{pack.manifest.size} {_accuracy(pack.manifest.evaluation)}" for pack in family.packs]
        anchor = "".join(each for each in first.title.lower().replace(" ", "-") if each.isalnum() or each == "-")
        picture = _PICTURES / f"{first.task}.png"
        cells = [
            f"![{first.title}]({root}{picture.relative_to(_ROOT).as_posix()})" if picture.is_file() else "",
            f"[{first.title}]({page}#{anchor}) `{first.task}`",
            first.modality,
            str(len(first.labels)),
            ", ".join(sizes),
            first.weights.license,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _accuracy(found: Evaluation | None) -> str:
    return "not measured" if found is None else f"{found.mean_dice.mean:.3f} (n = {found.cases})"


def _card(packs: Sequence[StudentPack]) -> str:
    first = packs[0].manifest
    spacing = " x ".join(f"{length:g}" for length in first.preprocessing.spacing)
    parts = [
        f"## {first.title}",
        f"`{first.task}` · {first.modality} · computes at {spacing} mm (z, y, x of the network)",
        f"**For** {first.intended_use}",
        f"**Not for, and not known** {first.limits}",
        f"**Trained on** {first.data.text} Licence of the data: {first.data.license}. "
        f"Licence of the weights: {first.weights.license}.",
        _trainings(packs),
    ]
    scores = _scores(packs)
    return "\n\n".join([*parts, _measurement(packs), scores] if scores else parts)


def _trainings(packs: Sequence[StudentPack]) -> str:
    rows = ["| Pack | Method | Iterations | Seed | Exported | Trained with |", "|---|---|---:|---:|---|---|"]
    for pack in packs:
        made = pack.manifest.provenance
        losses = made.losses or {}
        method = made.method if not losses else f"{made.method} ({'; '.join(map(_loss, losses, losses.values()))})"
        trained_with = _trained_with(made)
        versions = [f"{name} {trained_with[name]}" for name in ("nnunetv2", "torch") if name in trained_with]
        seed = _recipe_seed(made)
        cells = [
            f"`{pack.manifest.id}` {pack.manifest.version}",
            method,
            "not recorded" if made.iterations is None else f"{made.iterations:,}",
            "not recorded" if seed is None else str(seed),
            made.created,
            ", ".join(versions) or "not recorded",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _trained_with(made: Provenance) -> dict[str, str]:
    """Return the versions of the training; none where they are not known.

    A pack that marks the versions of its export has those of its training without the mark, if it knows them. Packs of
    an earlier version mark nothing, and all their versions are of the export.
    """
    if not any(name.endswith(_EXPORT) for name in made.versions):
        return {}
    return {name: version for name, version in made.versions.items() if not name.endswith(_EXPORT)}


def _recipe_seed(made: Provenance) -> int | None:
    """Return the seed of the recipe; packs hold that of the training, which in a student that goes on is another one.

    A pack does not say whether its student went on from a warm-up, so that this holds for recipes with smaller seeds
    than the offset.
    """
    if made.seed is None or made.method == "teacher":
        return made.seed
    return made.seed % CONTINUED_SEED_OFFSET


def _measurement(packs: Sequence[StudentPack]) -> str:
    """Return a line on how the scores of a family came about; what sizes do not share is said for each."""
    lines: dict[str, list[str]] = {}
    for pack in packs:
        if pack.manifest.evaluation is not None:
            lines.setdefault(_measured(pack.manifest.evaluation), []).append(pack.manifest.size)
    if len(lines) == 1:
        return f"**Measured on** {next(iter(lines))}"
    return "**Measured on** " + " ".join(f"{', '.join(sizes)}: {line}" for line, sizes in lines.items())


def _measured(found: Evaluation) -> str:
    sentences = [
        f"{found.dataset}, {found.split}, n = {found.cases}, {'with' if found.mirroring else 'without'} mirroring."
    ]
    if found.nsd_tolerance_mm is not None:
        of = "surface voxels" if found.nsd_surface == "voxels" else "sub-voxel patches by area"
        sentences.append(
            f"NSD (surface Dice): share of both surfaces ({of}) within {found.nsd_tolerance_mm:g} mm of each other."
        )
    if found.hd95_replaced is not None:
        times = "never" if found.hd95_replaced == 0 else f"{found.hd95_replaced} times"
        sentences.append(
            "HD95: an infinite one, of a structure in one of both segmentations only, counts as the image's diagonal: "
            f"{times} here."
        )
    return " ".join(sentences)


def _loss(name: str, settings: dict[str, str]) -> str:
    return f"{name}: {', '.join(f'{key} {value}' for key, value in settings.items())}"


def _scores(packs: Sequence[StudentPack]) -> str:
    """Return Dice, and where measured NSD and HD95, by structure and size; nothing if none was measured."""
    measured = [pack.manifest for pack in packs if pack.manifest.evaluation is not None]
    if not measured:
        return ""
    rows = [
        f"| Structure | {' | '.join(f'{manifest.size} Dice | NSD | HD95 mm' for manifest in measured)} |",
        f"|---|{'---:|---:|---:|' * len(measured)}",
    ]
    for label in measured[0].labels:
        cells = [label.name]
        for manifest in measured:
            found = manifest.evaluation
            score = next((each for each in found.labels if each.value == label.value), None) if found else None
            cells += _cells(score)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _cells(score: LabelScore | None) -> tuple[str, str, str]:
    if score is None:
        return "-", "-", "-"
    return _mean(score.dice, 3), _mean(score.nsd, 3), _mean(score.hd95_mm, 1)


def _mean(value: Interval | None, digits: int) -> str:
    return "-" if value is None else f"{value.mean:.{digits}f}"

"""Write what the manifests of the shipped packs say into README.md and pages of docs, between their markers.

python Testing/Benchmarks/packs_table.py [--check]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from model_cards import model_cards, overview

from KDSegmentatorLib import PackStore
from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.manifest import Evaluation, Interval
from KDSegmentatorLib.packs.pack import StudentPack

ROOT = Path(__file__).resolve().parents[2]


def shipped_packs() -> list[StudentPack]:
    """Return the packs that come with KDSegmentator, whatever else the user has installed."""
    with tempfile.TemporaryDirectory() as empty:
        return PackStore(user_folder=empty).packs()


def tables(packs: Sequence[StudentPack]) -> str:
    """Return one Markdown table a family."""
    parts = []
    for family in families(packs):
        found = [pack.manifest.evaluation for pack in family.packs]
        surfaces = any(each is not None and (each.mean_nsd or each.mean_hd95_mm) for each in found)
        more = ("Mean NSD", "Mean HD95 in mm") if surfaces else ()
        titles = ("Size", "Parameters", "GFLOP a window", "File", "Mean Dice [95 % CI]", "of teacher", *more, "n")
        rows = [
            f"| {' | '.join(titles)} |",
            f"|---|---:|---:|---:|---|---:|{'---|' * len(more)}---:|",
        ]
        rows += [row(pack, surfaces=surfaces) for pack in family.packs]
        parts.append(f"**{family.packs[0].manifest.title}** (`{family.task}`)\n\n" + "\n".join(rows))
        parts.append(notes(family.packs))
    return "\n\n".join(parts)


def row(pack: StudentPack, *, surfaces: bool) -> str:
    """Return a pack's line; with NSD and HD95 if any pack of its family has them."""
    manifest, network = pack.manifest, pack.manifest.network
    megabytes = sum(record.size for record in manifest.files.values()) / 1e6
    cells = [
        f"{manifest.size} (teacher)" if manifest.provenance.method == "teacher" else manifest.size,
        f"{network.parameters:,}",
        f"{network.flops_per_window / 1e9:.2f}",
        f"{megabytes:.1f} MB",
        *accuracy(manifest.evaluation),
        *(surface_accuracy(manifest.evaluation) if surfaces else ()),
        "-" if manifest.evaluation is None else str(manifest.evaluation.cases),
    ]
    return f"| {' | '.join(cells)} |"


def accuracy(evaluation: Evaluation | None) -> tuple[str, str]:
    """Return mean Dice with its interval, and the share of the teacher's."""
    if evaluation is None:
        return "not measured", "-"
    share = evaluation.mean_dice.mean / evaluation.teacher_mean_dice if evaluation.teacher_mean_dice else None
    return interval(evaluation.mean_dice), "-" if share is None else f"{share:.1%}"


def surface_accuracy(evaluation: Evaluation | None) -> tuple[str, str]:
    """Return mean NSD and HD95 with their intervals; packs of earlier versions have none."""
    nsd, hd95 = (None, None) if evaluation is None else (evaluation.mean_nsd, evaluation.mean_hd95_mm)
    return "-" if nsd is None else interval(nsd), "-" if hd95 is None else interval(hd95, digits=2)


def interval(value: Interval, digits: int = 4) -> str:
    """Return a mean with its confidence interval."""
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def notes(packs: Sequence[StudentPack]) -> str:
    """Say on what the accuracy was measured, and whose the data are."""
    sentences = []
    measured = {
        (found.dataset, found.split, found.mirroring)
        for pack in packs
        if (found := pack.manifest.evaluation) is not None
    }
    for dataset, split, mirroring in sorted(measured):
        how = "with" if mirroring else "without"
        sentences.append(f"Measured through this library's own pipeline on {dataset}, {split}, {how} mirroring.")
    tolerances = {
        (found.nsd_tolerance_mm, found.nsd_surface)
        for pack in packs
        if (found := pack.manifest.evaluation) is not None
        and found.mean_nsd is not None
        and found.nsd_tolerance_mm is not None
    }
    for tolerance, surface in sorted(tolerances, key=str):
        of = "surface voxels" if surface == "voxels" else "sub-voxel patches by area"
        sentences.append(f"NSD is the share of both surfaces ({of}) within {tolerance:g} mm of each other.")
    owed = sorted({f"{pack.manifest.weights.license}: {pack.manifest.weights.text}" for pack in packs})
    return " ".join([*sentences, *(f"Weights {credit}" for credit in owed)])


def reduced_precisions(packs: Sequence[StudentPack]) -> str:
    """Return the table of the number formats that the packs offer beside float32."""
    rows = [
        "| Pack | Format | Mean loss of Dice | Label that loses most | Probe | n | Size of the body |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for pack in packs:
        for each in pack.manifest.network.reduced_precisions:
            cells = [
                f"`{pack.manifest.id}`",
                each.precision,
                f"{each.mean_dice_loss:.4f}",
                f"{each.largest_dice_loss:.4f}",
                f"{each.probe_agreement:.2%}",
                str(each.cases),
                f"{pack.manifest.files[each.body].size / 1e6:.2f} MB",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


PLACES = (
    (ROOT / "README.md", "overview", overview),
    (ROOT / "docs" / "models.md", "family", tables),
    (ROOT / "docs" / "distillation-guide.md", "reduced", reduced_precisions),
    (ROOT / "docs" / "models.md", "models", model_cards),
)
"""File, name of its markers, and what is written between them."""


def replaced(text: str, name: str, content: str) -> str:
    """Return a page with new content between the markers of a name."""
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {first} and {last}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Update the pages, or check them, and return the exit code."""
    parser = argparse.ArgumentParser(description="Write the tables of shipped packs into the pages.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table is out of date")
    chosen = parser.parse_args(arguments)
    packs = shipped_packs()
    outdated = 0
    for path, name, content in PLACES:
        text = path.read_text(encoding="utf-8")
        wanted = replaced(text, name, content(packs))
        if text == wanted:
            continue
        if chosen.check:
            print(f"{path.name} does not show the shipped packs; run 'make readme'", file=sys.stderr)
            outdated = 1
        else:
            path.write_text(wanted, encoding="utf-8", newline="\n")
    return outdated


if __name__ == "__main__":
    sys.exit(main())

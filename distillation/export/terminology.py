"""SNOMED CT codes for the label names of models that somebody else trained.

The names are compared without regard to case, ``_``, ``-`` and the side: ``kidney_left``, ``Left kidney`` and
``kidney-l`` are one. They come from the shipped recipes and from ``structure_codes.csv`` beside this file.
"""

from __future__ import annotations

import colorsys
import csv
import re
from functools import cache
from pathlib import Path

from KDSegmentatorLib.packs.manifest import Code, Label, Terminology

_TABLE = Path(__file__).with_name("structure_codes.csv")
_ANATOMY = Code(scheme="SCT", value="123037004", meaning="Anatomical Structure")
_SIDES = {
    "left": Code(scheme="SCT", value="7771000", meaning="Left"),
    "right": Code(scheme="SCT", value="24028007", meaning="Right"),
}
_SIDE_WORDS = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
_TISSUE = Code(scheme="SCT", value="85756007", meaning="Tissue")
_GOLDEN_ANGLE = 0.381966  # successive multiples are far from each other on the circle of hues

UNKNOWN = Terminology(category=_TISSUE, type=_TISSUE)
"""What Slicer says about a segment of which nothing is known."""


def described_labels(values: dict[str, int]) -> tuple[tuple[Label, ...], tuple[str, ...]]:
    """Return labels with codes and colours for names and their values, and the names that no code is known for.

    Args:
        values: name to label value, background (0) left out or not.

    Examples:
        >>> labels, unknown = described_labels({"background": 0, "kidney_left": 1, "phantom": 2})
        >>> labels[0].terminology.type.meaning, labels[0].terminology.type_modifier.meaning, unknown
        ('Kidney', 'Left', ('phantom',))
    """
    named = sorted(((value, name) for name, value in values.items() if value != 0))
    found = {name: find_terminology(name) for _, name in named}
    labels = tuple(
        Label(value=value, name=name.strip(), color=_color(value), terminology=found[name] or UNKNOWN)
        for value, name in named
    )
    return labels, tuple(name for name, terms in found.items() if terms is None)


def find_terminology(name: str) -> Terminology | None:
    """Return the codes of a structure, None if its name is not known."""
    words = re.sub(r"[\W_]+", " ", name.casefold()).split()
    known = _known()
    whole = known.get((" ".join(words), None))  # 'heart ventricle left' has a code without a side
    if whole is not None:
        return whole
    sides = [_SIDE_WORDS[word] for word in words if word in _SIDE_WORDS]
    if len(sides) != 1:
        return None
    rest = " ".join(word for word in words if word not in _SIDE_WORDS)
    own = known.get((rest, sides[0]))
    if own is not None:
        return own
    plain = known.get((rest, None))
    if plain is None:
        return None
    side = _SIDES[sides[0]]
    at_region = plain.region is not None  # a cyst of the left kidney: the kidney has the side
    return Terminology(
        category=plain.category,
        type=plain.type,
        type_modifier=plain.type_modifier if at_region else side,
        region=plain.region,
        region_modifier=side if at_region else None,
    )


@cache
def _known() -> dict[tuple[str, str | None], Terminology]:
    """Return terminology by name and side (None: without one), the recipes' first."""
    from distillation.recipe_file import read_recipe, shipped_recipes

    known: dict[tuple[str, str | None], Terminology] = {}
    with _TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            terms = Terminology(
                category=_code(row["category_code"], row["category_meaning"]) or _ANATOMY,
                type=Code(scheme="SCT", value=row["code"], meaning=row["meaning"]),
                region=_code(row["region_code"], row["region_meaning"]),
            )
            known |= {(name, None): terms for name in row["names"].split("|")}
    for recipe in shipped_recipes():
        for label in read_recipe(recipe).pack.labels:
            words = label.name.casefold().split()
            side = words[0] if words[0] in _SIDES else None
            known[" ".join(words[1:] if side else words), side] = label.terminology
    return known


def _code(value: str, meaning: str) -> Code | None:
    return Code(scheme="SCT", value=value, meaning=meaning) if value else None


def _color(value: int) -> tuple[int, int, int]:
    """Return a colour of its own for a label value: hues far apart, in three brightnesses."""
    brightness = (0.95, 0.75, 0.85)[value % 3]
    red, green, blue = colorsys.hsv_to_rgb(value * _GOLDEN_ANGLE % 1, 0.6, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)

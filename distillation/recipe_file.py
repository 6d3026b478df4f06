"""Recipes as YAML files: those that come with the package, and any other."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from distillation.recipe import Recipe
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.packs.strict_json import FieldError, build

RECIPES_FOLDER = Path(__file__).parent / "recipes"


def read_recipe(name_or_path: str) -> Recipe:
    """Read a recipe that comes with the package, by its name, or any other, by its path.

    Raises:
        InvalidSettingsError: there is no such recipe, or it is not valid; the message names the setting.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = RECIPES_FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            raise InvalidSettingsError(
                f"there is no recipe {name_or_path!r}; give one of {', '.join(shipped_recipes())} or a .yaml file"
            )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidSettingsError(f"the recipe {path} cannot be read: {' '.join(str(error).split())}") from error
    try:
        recipe = build(Recipe, content)
    except FieldError as error:
        raise InvalidSettingsError(f"{path.name}: {error}") from error
    networks = tuple(str(path.parent / each) for each in recipe.teaching.networks)
    students = tuple(
        each if each.start is None else replace(each, start=str((path.parent / each.start).resolve()))
        for each in recipe.students
    )
    recipe = replace(recipe, teaching=replace(recipe.teaching, networks=networks), students=students)
    if recipe.teacher.folder is None:
        return recipe
    return replace(recipe, teacher=replace(recipe.teacher, folder=str(path.parent / recipe.teacher.folder)))


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml"))


class _StrictLoader(yaml.SafeLoader):
    """YAML with text as keys, each of them once, and 1e-2 for a number, as in YAML 1.2 (1.1 takes it for text)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

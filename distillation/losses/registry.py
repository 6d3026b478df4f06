"""Which losses there are: every loss in a file of this package, by the name that recipes use."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

import distillation.losses
from distillation.losses.term import DistillationTerm
from KDSegmentatorLib.packs.strict_json import FieldError, build

Terms = Mapping[str, DistillationTerm]
"""Losses of a method by their names."""


@cache
def known_losses() -> Mapping[str, type[DistillationTerm]]:
    """Return the classes of all losses by their names."""
    found: dict[str, type[DistillationTerm]] = {}
    for module in pkgutil.iter_modules(distillation.losses.__path__, f"{distillation.losses.__name__}."):
        for _, candidate in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(candidate, DistillationTerm) and not inspect.isabstract(candidate):
                found[candidate.name] = candidate
    return dict(sorted(found.items()))


def read_terms(content: Any, path: str) -> dict[str, DistillationTerm]:
    """Return the losses of a method from a parsed document: a mapping from a loss's name to its settings.

    Args:
        content: for example ``{"logit": {"temperature": 2.0, "weight": 1.0}}``.
        path: of the document's part, for messages.

    Raises:
        FieldError: a loss or a setting is unknown, missing or not valid.
    """
    if not isinstance(content, dict) or not content:
        raise FieldError(path, f"must name at least one loss of: {', '.join(known_losses())}")
    terms = {}
    for name, settings in content.items():
        if name not in known_losses():
            raise FieldError(f"{path}.{name}", f"unknown loss; known are: {', '.join(known_losses())}")
        try:
            terms[name] = build(known_losses()[name], settings)
        except FieldError as error:
            raise FieldError(f"{path}.{name}.{error.path}".rstrip("."), error.problem) from error
    return terms

"""The entry point of ``kdseg-distill``, which says what to install where only the clinical part is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MISSING_PACKAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: that of :func:`distillation.cli.main`, 2 if a package is missing."""
    try:
        from distillation import cli

        return cli.main(arguments)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("distillation", "KDSegmentatorLib"):
            raise
        print(
            f"kdseg-distill: error: the package {error.name} is missing; distillation needs the extra 'distill': "
            "pip install -c constraints.txt '.[distill]' in a clone of KDSegmentator",
            file=sys.stderr,
        )
        return MISSING_PACKAGE

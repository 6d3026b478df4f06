"""Where the networks of a report come from."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from distillation.report.tables import Table
from KDSegmentatorLib.machine.processor import processor_name
from KDSegmentatorLib.version import __version__

if TYPE_CHECKING:
    from distillation.report.content import TaskResults
    from KDSegmentatorLib.packs.pack import StudentPack

_HASH_DIGITS = 16


def provenance_table(results: TaskResults, packs: dict[str, StudentPack]) -> Table:
    """Return hashes, settings and versions of every network; the caption says which machine made the report."""
    rows = []
    for model, pack in packs.items():
        found = pack.manifest.provenance
        versions = ", ".join(f"{name} {version}" for name, version in sorted(found.versions.items()))
        rows.append(
            (
                model,
                found.checkpoint_sha256[:_HASH_DIGITS],
                "-" if found.teacher_sha256 is None else found.teacher_sha256[:_HASH_DIGITS],
                pack.manifest_sha256[:_HASH_DIGITS],
                "-" if found.iterations is None else f"{found.iterations:,}",
                "-" if found.seed is None else str(found.seed),
                found.created,
                versions,
            )
        )
    header = ("Network", "Checkpoint", "Teacher", "Pack", "Iterations", "Seed", "Exported", "Versions")
    caption = (
        f"First {_HASH_DIGITS} digits of the SHA-256 of checkpoints and manifests. Recipe's seed {results.seeds[0]}. "
        f"Report by KDSegmentator {__version__} on {processor_name()}, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}."
    )
    return Table(title="Provenance.", caption=caption, header=header, rows=tuple(rows), text_columns=4)

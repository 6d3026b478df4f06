"""Refuse large files and nnU-Net checkpoints: the Slicer extensions index wants the whole clone below 100 MB.

Give the files to check, for example ``git ls-files``; the shipped packs together have a limit of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT_MIB = 16
PACKS = Path("Resources/Packs")
PACKS_LIMIT_MB = 50
CHECKPOINTS = {".pth", ".pt", ".ckpt", ".pkl"}


def main(names: list[str]) -> int:
    """Print what is wrong with these files and return the exit code."""
    problems = []
    for path in map(Path, names):
        if path.suffix in CHECKPOINTS:
            problems.append(f"{path}: checkpoints do not belong into the repository; export a pack")
        elif path.is_file() and path.stat().st_size > LIMIT_MIB * 2**20:
            problems.append(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, the limit is {LIMIT_MIB} MiB")
    packs = sum(path.stat().st_size for path in PACKS.rglob("*") if path.is_file())
    if packs > PACKS_LIMIT_MB * 1e6:
        problems.append(f"{PACKS}: {packs / 1e6:.1f} MB together, the limit is {PACKS_LIMIT_MB} MB")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

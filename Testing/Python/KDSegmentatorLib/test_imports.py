"""What the import rules of pyproject.toml name one by one, from the other side: nothing but this is imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[3] / "KDSegmentatorLib"
CLINICAL = {
    "filelock",
    "msgspec",
    "platformdirs",
    "numpy",
    "psutil",
    "scipy",
    "PIL",
    "packaging",
    "onnxruntime",
    "openvino",
}
"""The dependencies of the distribution."""

DICOM = {"pydicom", "highdicom", "dicomweb_client", "requests"}
FURTHER = {
    "mrml": {"slicer", "vtk"},
    "dicom": DICOM,
    "node": DICOM | {"pynetdicom", "tomli", "typing_extensions"},  # the last comes with highdicom
}
"""What a package of the library may import beside them: what 3D Slicer has, what the extras of that name bring."""


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level names of the packages that a file imports anywhere, in functions and for types as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written with the full name"
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_clinical_machine_has_all_that_is_imported(path: Path) -> None:
    allowed = {"KDSegmentatorLib", *CLINICAL, *FURTHER.get(path.parent.name, ()), *sys.stdlib_module_names}
    assert set(imported(path)) <= allowed

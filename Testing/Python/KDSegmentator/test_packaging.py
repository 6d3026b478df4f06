"""The extension as Slicer builds and lists it: no file is forgotten, and the index entry is valid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]
MODULE = ROOT / "KDSegmentator"


def listed(file: Path, name: str) -> list[str]:
    """Return a list of a CMakeLists.txt."""
    found = re.search(rf"^set\({name}$(.*?)^  \)$", file.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{file} has no list {name}"
    return [line.strip().replace("${MODULE_NAME}", "KDSegmentator") for line in found[1].splitlines() if line.strip()]


def in_tree(folder: Path, pattern: str = "*", base: Path = ROOT) -> list[str]:
    """Return the files of a folder as CMake names them."""
    return sorted(
        path.relative_to(base).as_posix()
        for path in folder.rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    )


@pytest.mark.parametrize(
    ("file", "name", "files"),
    [
        ("CMakeLists.txt", "KDSEGMENTATORLIB_PYTHON_SCRIPTS", in_tree(ROOT / "KDSegmentatorLib", "*.py")),
        (
            "CMakeLists.txt",
            "KDSEGMENTATORLIB_PYTHON_RESOURCES",
            sorted(
                {name for name in in_tree(ROOT / "KDSegmentatorLib") if not name.endswith((".py", ".pyc"))}
                | set(in_tree(ROOT / "Resources" / "Packs"))
            ),
        ),
        ("KDSegmentator/CMakeLists.txt", "MODULE_PYTHON_SCRIPTS", in_tree(MODULE, "*.py", MODULE)),
        ("KDSegmentator/CMakeLists.txt", "MODULE_PYTHON_RESOURCES", in_tree(MODULE / "Resources", base=MODULE)),
    ],
    ids=["library", "library resources", "module", "module resources"],
)
def test_every_file_is_packaged(file: str, name: str, files: list[str]) -> None:
    found = listed(ROOT / file, name)
    assert len(set(found)) == len(found)
    missing, vanished = set(files) - set(found), set(found) - set(files)
    assert not missing, f"add to {name} in {file}:\n" + "\n".join(f"  {each}" for each in sorted(missing))
    assert not vanished, f"remove from {name} in {file}:\n" + "\n".join(f"  {each}" for each in sorted(vanished))


def test_the_wheel_names_the_licences_of_its_weights() -> None:
    """Research-only weights lie in it too, which a scan of licences has to find."""
    (expression,) = re.findall(r'^license = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    packs = [json.loads(path.read_text()) for path in (ROOT / "Resources" / "Packs").glob("*/manifest.json")]
    assert set(expression.split(" AND ")) == {"Apache-2.0"} | {pack["weights"]["license"] for pack in packs}


def test_the_root_is_what_slicer_expects() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    steps = [
        "cmake_minimum_required(VERSION 3.28.0...3.28.0 FATAL_ERROR)",
        "project(KDSegmentator)",
        "find_package(Slicer REQUIRED)",
        "include(${Slicer_USE_FILE})",
        "add_subdirectory(KDSegmentator)",
        "include(${Slicer_EXTENSION_GENERATE_CONFIG})",
        "include(${Slicer_EXTENSION_CPACK})",
    ]
    places = [text.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'^set\(EXTENSION_{name} "[^"]+"\)$', text, re.MULTILINE)
    for name in ("LICENSE.txt", "README.md"):
        assert f"${{CMAKE_CURRENT_SOURCE_DIR}}/{name}" in text
        assert (ROOT / name).is_file()


def test_pictures_that_the_index_shows_are_in_the_repository() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    urls = re.findall(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/([^\s\"]+)", text)
    assert len(urls) >= 2
    assert all((ROOT / path).is_file() for path in urls)


def test_index_entry() -> None:
    """The rules of Slicer's schema slicer-extension-catalog-entry-schema-v1.0.1."""
    entry = json.loads((ROOT / "KDSegmentator.json").read_text())
    assert entry["$schema"].endswith("/Schemas/slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert set(entry) <= {
        "$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "build_subdirectory",
        "enabled", "tier",
    }  # fmt: skip
    assert entry["category"] == "Segmentation"
    assert entry["scm_url"] in (ROOT / "CMakeLists.txt").read_text()
    assert entry["build_dependencies"] == []
    assert 1 <= entry["tier"] <= 5


def test_icon() -> None:
    with Image.open(MODULE / "Resources" / "Icons" / "KDSegmentator.png") as icon:
        assert icon.size == (128, 128)
        assert icon.mode == "RGBA"


def test_no_name_clashes_with_a_package_of_slicer() -> None:
    """Everything lies in Slicer's folder for scripted modules, where a top-level name belongs to all extensions."""
    scripts = listed(ROOT / "CMakeLists.txt", "KDSEGMENTATORLIB_PYTHON_SCRIPTS")
    scripts += listed(MODULE / "CMakeLists.txt", "MODULE_PYTHON_SCRIPTS")
    assert {Path(name).parts[0] for name in scripts} == {"KDSegmentatorLib", "KDSegmentatorPanel", "KDSegmentator.py"}


def test_what_is_installed_on_request_is_what_the_library_needs() -> None:
    """The same packages and bounds as in pyproject.toml; markers may leave out machines without a wheel."""
    project = (ROOT / "pyproject.toml").read_text()
    lines = (ROOT / "KDSegmentatorLib" / "slicer-requirements.txt").read_text().splitlines()
    bounds = [line.partition(";")[0].strip() for line in lines if line and not line.startswith("#")]
    assert [bound.partition(">=")[0] for bound in bounds] == ["msgspec", "psutil", "onnxruntime", "openvino"]
    for bound in bounds:
        assert re.search(rf'^    "{re.escape(bound)}["; ]', project, re.MULTILINE), f"{bound} is not in pyproject.toml"

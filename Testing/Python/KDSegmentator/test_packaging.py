"""The extension as Slicer builds and lists it: no file is forgotten, and the index entry is valid."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from KDSegmentatorLib import read_volume
from KDSegmentatorPanel.sample_data import SAMPLES

ROOT = Path(__file__).parents[3]
MODULE = ROOT / "KDSegmentator"


# What the extension's CMakeLists.txt ask of Slicer, writing down what they hand over.
SLICER = """
cmake_minimum_required(VERSION 3.20)
project(Slicer NONE)
macro(cmake_minimum_required)
endmacro()
macro(project)
endmacro()
macro(find_package)
endmacro()
macro(include)
endmacro()
macro(ctkMacroCompilePythonScript)
  set(single TARGET_NAME SOURCE_DIR DESTINATION_DIR INSTALL_DIR)
  cmake_parse_arguments(GIVEN "NO_INSTALL_SUBDIR" "${single}" "SCRIPTS;RESOURCES" ${ARGN})
  file(WRITE "${CMAKE_BINARY_DIR}/${GIVEN_TARGET_NAME}.txt" "${GIVEN_SCRIPTS};${GIVEN_RESOURCES}")
endmacro()
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(GIVEN "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  file(WRITE "${CMAKE_BINARY_DIR}/${GIVEN_NAME}.txt" "${GIVEN_SCRIPTS};${GIVEN_RESOURCES}")
endmacro()
add_subdirectory(@ROOT@ ${CMAKE_BINARY_DIR}/extension)
"""


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the files that CMake packages, by target, with macros in the place of Slicer's."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    folder = tmp_path_factory.mktemp("cmake")
    (folder / "CMakeLists.txt").write_text(SLICER.replace("@ROOT@", ROOT.as_posix()))
    build = folder / "build"
    subprocess.run([cmake, "-S", folder, "-B", build], check=True, capture_output=True, timeout=120)
    targets = ("KDSegmentatorLib", "KDSegmentator")
    return {target: [name for name in (build / f"{target}.txt").read_text().split(";") if name] for target in targets}


def in_tree(*folders: Path, base: Path = ROOT) -> list[str]:
    """Return the files of folders, relative to `base`, without what Python compiles."""
    return sorted(
        path.relative_to(base).as_posix()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def test_every_file_of_the_library_and_of_the_packs_is_packaged(packaged: dict[str, list[str]]) -> None:
    assert sorted(packaged["KDSegmentatorLib"]) == in_tree(ROOT / "KDSegmentatorLib", ROOT / "Resources" / "Packs")


def test_every_file_of_the_module_is_packaged(packaged: dict[str, list[str]]) -> None:
    files = [name for name in in_tree(MODULE, base=MODULE) if name != "CMakeLists.txt"]
    assert sorted(packaged["KDSegmentator"]) == files


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


def test_samples_are_the_files_that_are_registered() -> None:
    """Slicer compares the checksum when it loads one."""
    for thumbnail, files in SAMPLES.values():
        assert (MODULE / "Resources" / thumbnail).is_file()
        for file in files:
            content = (MODULE / "Resources" / "Samples" / file.name).read_bytes()
            assert file.checksum == f"SHA256:{hashlib.sha256(content).hexdigest()}"


def test_the_brain_lies_as_its_header_says() -> None:
    """Its middle is where it is in MNI space."""
    scan = read_volume(MODULE / "Resources" / "Samples" / "KDSegmentator-brain.nrrd")
    k, j, i = (places.mean() for places in np.nonzero(scan.voxels > 40))
    left, posterior, superior = (scan.affine @ [i, j, k, 1.0])[:3]
    assert abs(left) < 2
    assert 10 < posterior < 30
    assert 0 < superior < 25


def test_every_shipped_task_has_a_picture() -> None:
    """Small, as all Slicers load the extension; transparent, for light and dark styles."""
    manifests = (ROOT / "Resources" / "Packs").glob("*/manifest.json")
    for task in {json.loads(path.read_text(encoding="utf-8"))["task"] for path in manifests}:
        path = MODULE / "Resources" / "Tasks" / f"{task}.png"
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((160, 160), "RGBA")
            assert picture.getpixel((0, 0))[3] == 0
        assert path.stat().st_size < 30_000


def test_no_name_clashes_with_a_package_of_slicer(packaged: dict[str, list[str]]) -> None:
    """Everything lies in Slicer's folder for scripted modules, where a top-level name belongs to all extensions."""
    scripts = [name for names in packaged.values() for name in names if name.endswith(".py")]
    assert {Path(name).parts[0] for name in scripts} == {"KDSegmentatorLib", "KDSegmentatorPanel", "KDSegmentator.py"}


def test_what_is_installed_on_request_is_what_the_library_needs() -> None:
    """The same packages and bounds as in pyproject.toml; markers may leave out machines without a wheel."""
    project = (ROOT / "pyproject.toml").read_text()
    lines = (ROOT / "KDSegmentatorLib" / "slicer-requirements.txt").read_text().splitlines()
    bounds = [line.partition(";")[0].strip() for line in lines if line and not line.startswith("#")]
    assert [bound.partition(">=")[0] for bound in bounds] == [
        "msgspec", "psutil", "filelock", "platformdirs", "onnxruntime", "openvino",
    ]  # fmt: skip
    for bound in bounds:
        assert re.search(rf'^    "{re.escape(bound)}["; ]', project, re.MULTILINE), f"{bound} is not in pyproject.toml"
